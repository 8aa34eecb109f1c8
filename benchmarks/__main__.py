"""``python -m benchmarks``: time everything side by side, print it and write the tables."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from . import race, report, subjects, zoo
from .floor import Floor, matrix_rate
from .items import ITEMS, ON_GPU

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CHOICES = (*ITEMS, "zoo")


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CHOICES, default=CHOICES, metavar="ITEM",
                        help=f"of {', '.join(CHOICES)}")  # fmt: skip
    parser.add_argument("--networks", nargs="+", choices=subjects.SUBJECTS,
                        default=list(subjects.SUBJECTS))  # fmt: skip
    parser.add_argument("--quick", dest="size", action="store_const", const="quick",
                        help="smaller batches and fewer rounds, a quarter of an hour")  # fmt: skip
    parser.add_argument("--size", choices=subjects.SIZES, default="default")
    parser.add_argument("--device", default="cpu",
                        help=f"cuda: {', '.join(ON_GPU)} there; see --size gpu")  # fmt: skip
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, help="images for the small network")
    parser.add_argument("--batch-resnet18", type=int, help="images for ResNet-18")
    parser.add_argument("--rounds", type=int, help="timings of every contestant")
    parser.add_argument("--no-memory", action="store_true", help="peak memory is not measured")
    parser.add_argument("--out", type=Path, help="folder of this machine's tables")
    parser.add_argument("--page", type=Path, default=ROOT / "book" / "_generated" / "benchmark.md",
                        help="the tables of all machines, in Markdown")  # fmt: skip
    parser.add_argument("--probe", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {given.device}: PyTorch finds no GPU; choose cpu")
    given.out = given.out or RESULTS / report.slug(given.device)
    return given


def chosen_size(given: argparse.Namespace) -> subjects.Size:
    size = replace(subjects.SIZES[given.size], device=given.device)
    batch = (given.batch or size.batch[0], given.batch_resnet18 or size.batch[1])
    rounds = given.rounds
    repeats = (rounds, rounds) if rounds else size.repeats
    return replace(size, batch=batch, repeats=repeats, zoo_repeats=rounds or size.zoo_repeats)


def say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def timed(given, size: subjects.Size) -> tuple[list[race.Result], dict[str, Floor]]:
    """All chosen items of all chosen networks."""
    results, floors = [], {}
    possible = ITEMS if given.device == "cpu" else ON_GPU
    wanted = [key for key in possible if key in given.only]
    for name in given.networks if wanted else []:
        say(f"== {subjects.TITLES[name]}: preparing the network, timing its convolutions")
        subject = subjects.SUBJECTS[name](size)
        floors[name] = Floor(subject.model, subject.x, size.floor_repeats)
        for key in wanted:
            item = ITEMS[key](subject, size)
            say(f"-- {item.title}: {', '.join(item.contestants)}")
            results += race.race(item, name, subject.of(size.repeats), floors[name])
    if "zoo" in given.only and "small" in given.networks and given.device == "cpu":
        with zoo.zoo(size, given.threads) as item:
            say(f"-- {item.title}")
            results += race.race(item, "small", size.zoo_repeats)
    return results, floors


def probe(given: argparse.Namespace) -> int:
    """Do one thing in this process and print the peak of its memory (MB)."""
    network, key, contestant = given.probe
    size = replace(subjects.probing(subjects.SIZES[given.size]), device=given.device)
    if key == "zoo":
        jobs = {zoo.BASE: zoo.straightforward}
        jobs.get(contestant, zoo.ours)(size, 0)
    else:
        ITEMS[key](subjects.SUBJECTS[network](size), size).contestants[contestant]()
    print(race.own_peak())
    return 0


def measure(given: argparse.Namespace) -> int:
    """Time, measure memory, print the page and write it with the tables."""
    size, busy = chosen_size(given), os.getloadavg()[0]
    about = report.machine(given.threads, busy, given.device)
    if given.device != "cpu":
        about.append(
            f"matrix product of 8192 × 8192: {matrix_rate(given.device):.0f} TFLOP/s in bf16"
        )
    about.append(f"options: `{' '.join(given.options) or 'none'}`")
    if busy > 0.5:
        say(f"Other programs are running (load {busy:.1f}): timings will be off.")
    results, floors = timed(given, size)
    if not given.no_memory:
        options = ["--threads", str(given.threads), "--size", given.size, "--device", given.device]
        for r in tqdm(results, "peak memory", leave=False, disable=None):
            threads = ["--threads", "1"] if r.contestant == zoo.WORKERS else []
            how = (r.network, r.item, r.contestant, [*options, *threads])
            r.memory = race.peak_memory(*how)
    note = (
        f"batch {size.batch[0]} for the small network, {size.batch[1]} for ResNet-18; "
        f"peak memory at a batch of {subjects.probing(size).batch[1]}, of a fresh process"
    )
    text = report.page(results, floors, about, given.threads, note, size)
    written = {
        given.out / "rounds.csv": report.rounds_csv(results),
        given.out / "summary.csv": report.summary_csv(results),
        given.out / "page.md": text,
        given.page: None,
    }
    for path, content in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:  # after this machine's own
            pages = sorted(given.out.parent.glob("*/page.md"))
            content = "\n".join(page.read_text(encoding="utf-8") for page in pages)
        path.write_text(content, encoding="utf-8")
    print(text)
    print("Written:", *(os.path.relpath(path) for path in written))
    return 0


def main(arguments: list[str] | None = None) -> int:
    given = parsed(arguments)
    given.size = given.size or "default"
    given.options = sys.argv[1:] if arguments is None else arguments
    torch.set_num_threads(given.threads)
    with threadpool_limits(given.threads, "blas"):  # SciPy's
        return probe(given) if given.probe else measure(given)


if __name__ == "__main__":
    sys.exit(main())
