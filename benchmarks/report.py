"""The tables: tidy CSV of every round, and a page of Markdown that the book includes."""

import csv
import io
import os
import platform
import re
from pathlib import Path

import torch

from flatlib.files.provenance import provenance

from . import peers
from .floor import Floor
from .items import BASE, OURS, OURS_BF16, RECORDED
from .race import Result, ratio
from .subjects import TITLES, Size

FEATURES = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "sve", "bf16", "asimd")  # best first
APART = ("stacked", "zoo")  # items with tables of their own
ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
ROUND = ("network", "item", "contestant", "round", "seconds")
SUMMARY = (
    "network", "item", "title", "contestant", "median_seconds", "speed", "speed_least",
    "speed_most", "floor_seconds", "times_floor", "memory_mb", "gflop", "counted", "steps",
    "quantity", "value", "doubts",
)  # fmt: skip


def processor() -> tuple[str, list[str]]:
    """Its name, and which of ``FEATURES`` it has."""
    model, flags = platform.processor() or platform.machine(), set()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        key, _, value = line.partition(":")
        model = value.strip() if key.strip() == "model name" else model
        flags |= set(value.split()) if key.strip() in ("flags", "Features") else set()
    return model, [f for f in FEATURES if f in flags]


def device_name(device: str = "cpu") -> str:
    """This machine: processor, cores, best feature; or its GPU."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    model, features = processor()
    return f"{model}, {os.cpu_count()} cores, {features[0] if features else ''}"


def slug(device: str = "cpu") -> str:
    """A folder's name for this machine."""
    return "-".join(re.findall(r"[a-z0-9_]+", device_name(device).lower()))


def machine(threads: int, busy: float, device: str = "cpu") -> list[str]:
    """What the numbers depend on, a line each."""
    model, features = processor()
    allocator = ", ".join(f"{k}={os.environ.get(k, 'unset')}" for k in ALLOCATOR)
    lines = [
        f"processor: {model}, {os.cpu_count()} cores; {', '.join(features) or 'features unknown'}",
        f"flatlib {provenance()['commit']}, {threads} threads; PyTorch {torch.__version__}, "
        f"Python {platform.python_version()}, "
        f"{platform.system()}",
        f"allocator: `{allocator}`",
    ]
    if device != "cpu":
        tf32 = "on" if torch.backends.cudnn.allow_tf32 else "off"
        name = f"GPU: {device_name(device)}, CUDA {torch.version.cuda}"
        lines.insert(0, f"{name}; TF32 in convolutions of steps {tf32}, of reported losses off")
    if busy > 0.5:
        lines.append(f"**other programs were running: the load was {busy:.1f} at the start**")
    return lines


def groups(results: list[Result]) -> dict[tuple[str, str], list[Result]]:
    """Results by (network, item); the first of each is the straightforward one."""
    found: dict = {}
    for result in results:
        found.setdefault((result.network, result.item), []).append(result)
    return found


def rounds_csv(results: list[Result]) -> str:
    rows = [
        (r.network, r.item, r.contestant, number, f"{seconds:.6g}")
        for r in results
        for number, seconds in enumerate(r.seconds)
    ]
    return _csv(ROUND, rows)


def summary_csv(results: list[Result]) -> str:
    rows = []
    for group in groups(results).values():
        for r in group:
            speed, least, most = ratio(r, group[0])
            over = r.median / r.floor if r.floor else None
            numbers = (r.median, speed, least, most, r.floor, over, r.memory, r.gflop)
            rows.append((
                r.network, r.item, r.title, r.contestant,
                *("" if v is None else f"{v:.4g}" for v in numbers),
                r.counted, r.steps, r.quantity, f"{r.value:.5g}", "; ".join(r.doubts),
            ))  # fmt: skip
    return _csv(SUMMARY, rows)


def _csv(header, rows) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    return text.getvalue()


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _speed(result: Result | None, base: Result) -> str:
    if result is None:
        return "–"
    middle, least, most = ratio(result, base)
    mark = "\\*" if result.doubts else ""
    return f"{middle:.2f}{mark} ({least:.2f}–{most:.2f})"


def speeds(network: str, results: list[Result]) -> str:
    """Speed of every contestant relative to the straightforward one, an item per row."""
    header = [TITLES[network], f"{BASE} (s)", "flatlib", "flatlib, bf16 steps", "other packages",
              "at the floor"]  # fmt: skip
    rows = []
    for (where, item), group in groups(results).items():
        if where != network or item in APART:
            continue
        by_name, base = {r.contestant: r for r in group}, group[0]
        others = [
            f"{name} {_speed(by_name[name], base)}" if name in by_name else f"{name} not installed"
            for name in peers.APPLY.get(item, ())
        ]
        others += [
            f"flatlib, {name} {_speed(by_name[name], base)}" for name in RECORDED if name in by_name
        ]
        mine = [_speed(by_name.get(name), base) for name in (OURS, OURS_BF16)]
        limit = f"{base.median / base.floor:.2f}" if base.floor else "–"
        rows.append([base.title, f"{base.median:.3g}", *mine, "<br>".join(others) or "–", limit])
    return _table(header, rows)


def limits(network: str, results: list[Result]) -> str:
    """Seconds over the floor, memory, and the checks of equal work, a contestant per row."""
    header = ["", "contestant", "median (s)", "floor (s)", "times the floor", "peak memory (MB)",
              "GFLOP done", "work", "result", "differs"]  # fmt: skip
    rows = []
    for group in groups(results).values():
        for r in group:
            if r.network == network and r.item not in APART:
                rows.append(_limit(r, first=r is group[0]))
    return _table(header, rows)


def _limit(r: Result, first: bool) -> list[str]:
    return [
        r.title if first else "",
        r.contestant,
        f"{r.median:.3g}",
        "–" if r.floor is None else f"{r.floor:.3g}",
        "–" if r.floor is None else f"{r.median / r.floor:.2f}",
        "–" if r.memory is None else f"{r.memory:.0f}",
        f"{r.gflop:.3g}",
        f"{r.steps} {r.counted}",
        f"{r.quantity} {r.value:.4g}",
        "; ".join(r.doubts) or "no",
    ]


def stacked_table(results: list[Result]) -> str:
    """Several networks at once: seconds, and speed relative to one after the other."""
    header = ["several networks", "way", "median (s)", "speed", "peak memory (MB)"]
    rows = []
    for (network, item), group in groups(results).items():
        for r in group if item == "stacked" else ():
            memory = "–" if r.memory is None else f"{r.memory:.0f}"
            title = f"{TITLES[network]}: {r.title}" if r is group[0] else ""
            rows.append([title, r.contestant, f"{r.median:.3g}", _speed(r, group[0]), memory])
    return _table(header, rows)


def zoo_table(results: list[Result], models: int) -> str:
    """Seconds per model and models per hour."""
    group = [r for r in results if r.item == "zoo"]
    header = ["", "seconds per model", "models per hour", "times as many", "peak memory (MB)",
              group[0].quantity]  # fmt: skip
    rows = [
        [
            r.contestant,
            f"{r.median / models:.2f}",
            f"{3600 * models / r.median:.0f}",
            _speed(r, group[0]),
            "–" if r.memory is None else f"{r.memory:.0f}",
            f"{r.value:.3f}",
        ]
        for r in group
    ]
    return _table(header, rows)


def whole(results: list[Result], size: Size) -> list[str]:
    """What the timings of ResNet-18 amount to: an epoch of training, one measure of flatness."""
    parts = {"training": (50_000 / size.batch[1], "a PGD-7 epoch of 50 000 images"),
             "average": (1000 / size.batch[1] * 10 / size.draws[1],
                         "average-case flatness of 1000 images, 10 draws")}  # fmt: skip
    lines = []
    for item, (times, words) in parts.items():
        group = groups(results).get(("resnet18", item), ())
        found = [f"{times * r.median:.3g} s {r.contestant}" for r in group]
        lines += [f"ResNet-18, {words}: {', '.join(found)}"] if found else []
    return lines


def page(
    results: list[Result], floors: dict[str, Floor], about: list[str], models: int, note: str,
    size: Size,
) -> str:  # fmt: skip
    """The part of the book's page that is about this machine."""
    present = [f"{p} {peers.version(p)}" for p in peers.PACKAGES if peers.version(p)]
    rates = [
        f"convolutions alone, {TITLES[name]}: {floor.rate('float32'):.0f} GFLOP/s in float32, "
        f"{floor.rate('bf16'):.0f} in bf16"
        for name, floor in floors.items()
    ]
    about = [*about, f"other packages: {', '.join(present) or 'none'}", *rates, note]
    about += whole(results, size)
    parts = [f"### {device_name(size.device)}"]
    parts.append("\n".join(f"- {line}" for line in about))
    networks = [n for n in TITLES if any(r.network == n and r.item not in APART for r in results)]
    parts += [speeds(name, results) for name in networks]
    if any(r.item == "stacked" for r in results):
        parts.append(stacked_table(results))
    if any(r.item == "zoo" for r in results):
        parts.append(zoo_table(results, models))
    parts.append("\\* the work or its result differs, see the column *differs* below.")
    for name in networks:
        parts += [f"**{TITLES[name]}**", limits(name, results)]
    return "\n\n".join(parts) + "\n"
