"""Timing: all contestants of an item in turn, A B A B, in one process; memory in a fresh one."""

import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .floor import Floor, Work, clock
from .items import Item


@dataclass
class Result:
    """One contestant at one item: a time per round, and what shows that its work was equal."""

    network: str
    item: str
    title: str
    contestant: str
    quantity: str
    counted: str
    value: float
    steps: int | None
    gflop: float
    floor: float | None = None  # seconds
    memory: float | None = None  # peak, MB
    doubts: tuple[str, ...] = ()
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def race(item: Item, network: str, repeats: int, floor: Floor | None = None) -> list[Result]:
    """Run every contestant once, counting and checking, then time them in turn."""
    results = []
    for name, run in item.contestants.items():
        with Work() as work:
            outcome = run()
        results.append(_checked(item, network, name, outcome, work, results, floor))
    for _ in range(repeats):
        for result in results:
            started = clock()
            item.contestants[result.contestant]()
            result.seconds.append(clock() - started)
    return results


def _checked(item: Item, network, name, outcome, work: Work, others, floor) -> Result:
    value, steps = float(item.value(outcome)), item.steps(outcome, work)
    doubts = []
    if others:
        base = others[0]
        if steps != base.steps:
            doubts.append(f"{steps} {item.counted} instead of {base.steps}")
        off = value / base.value - 1
        if not abs(off) <= item.tolerance:
            doubts.append(f"{item.quantity} {off:+.1%}")
    least = None
    if floor is not None and item.least is not None:
        least = floor.seconds(item.least, "bf16" if name.endswith("bf16") else "float32")
    return Result(
        network, item.key, item.title, name, item.quantity, item.counted, value, steps,
        work.flops / 1e9, least, doubts=tuple(doubts),
    )  # fmt: skip


def ratio(result: Result, base: Result) -> tuple[float, float, float]:
    """How many times faster than ``base``: median, least and most of the rounds' ratios."""
    ratios = [b / r for b, r in zip(base.seconds, result.seconds)]
    return statistics.median(ratios), min(ratios), max(ratios)


def peak_memory(network: str, item: str, contestant: str, options: list[str]) -> float | None:
    """MB of a fresh process that does this one thing; None if it failed."""
    command = [sys.executable, "-m", "benchmarks", "--probe", network, item, contestant, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def own_peak() -> float:
    """The largest memory this process has had so far, in MB: the GPU's, if it used one."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where getrusage counts the process that started this one too
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
