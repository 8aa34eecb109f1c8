"""Models of the quick zoo from start to end: trained, attacked, both kinds of flatness measured.

One process with all threads against as many processes of one thread as there are threads.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import torch

from flatlib import AT, PGD, average_flatness, evaluate, fit, worst_flatness
from flatlib.training import profiles

from . import plain
from .items import BASE, OURS, Item
from .subjects import Size, profile

WORKERS = "flatlib, one process per thread"


def straightforward(size: Size, seed: int) -> float:
    """Train and measure one model with ``plain``; its RLoss."""
    p, g = profile(size), torch.Generator().manual_seed(seed)
    data, step = p.load(), PGD(eps=p.eps).step
    model = profiles.network(AT, p, data, g)
    log = data.test.first(p.log_images)

    def curves(epoch: int) -> None:
        if (epoch + 1) % p.log_every == 0 or epoch + 1 == p.epochs:
            plain.robust_loss(model, *log, p.eps, step, 7, g).mean().item()

    x, y = data.test.first(size.measured)
    plain.train(model, *data.train, p.eps, step, p.epochs, p.batch, g, curves)
    reference = plain.robust_loss(model, x, y, p.eps, step, size.steps, g, size.restarts)
    how = (model, x, y, reference, p.eps, step, size.steps)
    plain.average_flatness(*how, draws=size.draws[0], g=g)
    plain.worst_flatness(*how, restarts=size.restarts, g=g)
    return reference.mean().item()


def ours(size: Size, seed: int) -> float:
    """The same with flatlib."""
    p, g = profile(size), torch.Generator().manual_seed(0)
    model, _ = fit(AT, p, seed)
    x, y = p.load().test.first(size.measured)
    attack = PGD(eps=p.eps, steps=size.steps, restarts=size.restarts)
    report = evaluate(model, x, y, attack, g, doubts=False)
    one, reference = PGD(eps=p.eps, steps=size.steps), report.robust_loss
    average_flatness(model, x, y, one, 0.5, size.draws[0], g, reference=reference)
    how = {"protocol": "paper", "reference": reference}
    worst_flatness(model, x, y, p.eps, 0.003, size.steps, size.restarts, g, **how)
    return report.RLoss


def one_after_the_other(job, size: Size, models: int) -> float:
    """``job`` for so many seeds; the mean of what it returns."""
    return sum(job(size, seed) for seed in range(models)) / models


@contextmanager
def zoo(size: Size, workers: int) -> Iterator[Item]:
    """As many models per timing as workers; the worker processes live as long as the item."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:

        def at_once() -> float:
            return sum(pool.map(ours, [size] * workers, range(workers))) / workers

        contestants = {
            BASE: lambda: one_after_the_other(straightforward, size, workers),
            OURS: lambda: one_after_the_other(ours, size, workers),
            WORKERS: at_once,
        }
        title = f"{workers} zoo models: {size.epochs} epochs, PGD, flatness"
        quantity = "mean RLoss of the models"
        yield Item("zoo", title, quantity, contestants, float, None, lambda result, work: None, 0.1)
