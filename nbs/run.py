"""Execute notebooks with parameters, into copies: the notebooks themselves are never changed.

    python nbs/run.py fig01 --out out -p profile smoke
    python nbs/run.py --all --out _build/live/nbs -p source live
    python nbs/run.py --list

A parameter that a notebook does not have is refused before anything runs (papermill only warns).
"""

import argparse
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path

import papermill
import yaml

NBS = Path(__file__).resolve().parent
HIDDEN = re.compile(r"(^|/)[._]")


def known() -> dict[str, Path]:
    """Every notebook under nbs/ by its name there, e.g. ``stutz2021/fig01_flatness``."""
    names = {p.relative_to(NBS).with_suffix("").as_posix(): p for p in sorted(NBS.rglob("*.ipynb"))}
    return {name: path for name, path in names.items()
            if not HIDDEN.search(name) and not name.endswith(".failed")}


def resolve(wanted: str, notebooks: dict[str, Path]) -> str:
    """The one notebook meant by ``fig01``, ``stutz2021/fig01``, its full name or its file."""
    file = Path(wanted).resolve()
    exact = [name for name, path in notebooks.items() if name == wanted or path == file]
    start = re.compile(rf"(.*/)?{re.escape(wanted)}(_.*)?")
    found = exact or [name for name in notebooks if start.fullmatch(name)]
    if len(found) == 1:
        return found[0]
    problem = "matches several notebooks" if found else "is not a notebook here"
    raise ValueError(f"{wanted!r} {problem}; choose from: {', '.join(found or notebooks)}")


def typed(text: str) -> object:
    """The value written as ``text``: YAML, and 1e-3 is a number (YAML 1.1 takes it for a word)."""
    value = yaml.safe_load(text)
    return float(value) if re.fullmatch(r"[-+]?[\d.]+e[-+]?\d+", str(value).lower()) else value


def assign(chosen: list[str], notebooks: dict[str, Path], given: dict, shared: bool) -> dict:
    """Notebook -> its parameters. ``shared``: a parameter goes to the notebooks that have it."""
    valid = {name: set(papermill.inspect_notebook(notebooks[name])) for name in chosen}
    for name in given:
        missing = [notebook for notebook in chosen if name not in valid[notebook]]
        if missing and (not shared or len(missing) == len(chosen)):
            names = sorted(set().union(*valid.values())) if shared else sorted(valid[missing[0]])
            where = "no notebook has" if shared else f"{missing[0]} does not have"
            valid_names = ", ".join(names) or "none"
            raise ValueError(f"{where} a parameter {name!r}; valid are: {valid_names}")
    return {nb: {k: v for k, v in given.items() if k in valid[nb]} for nb in chosen}


def execute(source: Path, target: Path, parameters: dict) -> str:
    """Run one notebook in its own folder; ``target`` appears only when complete. Error or ''."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}")
    failed = target.with_suffix(".failed.ipynb")
    try:
        papermill.execute_notebook(source, partial, parameters, cwd=source.parent,
                                   kernel_name="python3", progress_bar=False)
    except Exception as error:  # whatever a notebook or its kernel does, the others still run
        if partial.exists():
            os.replace(partial, failed)
        return str(error).strip().splitlines()[-1] + f"  (see {failed})"
    except KeyboardInterrupt:
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, target)
    failed.unlink(missing_ok=True)
    return ""


def arguments(argv: list[str] | None) -> argparse.Namespace:
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("notebooks", nargs="*", help="names such as fig01, or paths")
    parser.add_argument("--all", action="store_true", help="every notebook under nbs/")
    parser.add_argument("--shared", action="store_true",
                        help="a parameter goes to the notebooks that have it, as with --all")
    parser.add_argument("--list", action="store_true", help="show notebooks and their parameters")
    parser.add_argument("--out", type=Path, default=NBS.parent / "_build" / "executed",
                        metavar="FOLDER", help="where the executed copies go")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                        help="a parameter; repeat for several")
    args = parser.parse_args(argv)
    if bool(args.notebooks) + args.all + args.list != 1:
        parser.error("name notebooks, or use --all or --list")
    if args.out.resolve().is_relative_to(NBS):
        parser.error(f"--out {args.out} lies among the notebooks themselves; choose another folder")
    return args


def main(argv: list[str] | None = None) -> int:
    args, notebooks, failures = arguments(argv), known(), []
    if args.list:
        if hasattr(signal, "SIGPIPE"):  # "--list | head" ends in silence
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        for name, path in notebooks.items():
            parameters = papermill.inspect_notebook(path).items()
            print(name, *(f"{k}={v['default']}" for k, v in parameters))
        return 0
    for folder in ("FLATLIB_RUNS", "FLATLIB_DATASETS"):  # notebooks run in folders of their own
        if os.environ.get(folder):
            os.environ[folder] = os.path.abspath(os.path.expanduser(os.environ[folder]))
    try:
        named = dict.fromkeys(resolve(wanted, notebooks) for wanted in args.notebooks)
        chosen = list(named or notebooks)
        plan = assign(chosen, notebooks, {k: typed(v) for k, v in args.p},
                      shared=args.all or args.shared)
    except (ValueError, yaml.YAMLError) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    for number, (name, parameters) in enumerate(plan.items(), 1):
        print(f"[{number}/{len(plan)}] {name} ... ", end="", flush=True)
        start = time.monotonic()
        error = execute(notebooks[name], args.out.resolve() / f"{name}.ipynb", parameters)
        print(f"{'FAILED' if error else 'ok'}, {time.monotonic() - start:.1f} s", flush=True)
        if error:
            failures.append(f"  {name}: {error}")
    print(f"{len(plan) - len(failures)} of {len(plan)} notebooks executed, in {args.out}")
    print(*failures, sep="\n", file=sys.stderr, end="\n" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    logging.getLogger("papermill").setLevel(logging.ERROR)
    sys.exit(main())
