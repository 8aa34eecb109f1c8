"""Prepare a folder from which jupyter-book can build the book of notebooks executed by run.py.

    python nbs/run.py --all --out _build/live/nbs -p source live
    python nbs/stage.py _build/live
    jupyter-book build _build/live --path-output .
"""

import shutil
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def pages(entry: object) -> list[str]:
    """All files named in a table of contents, at any depth."""
    if isinstance(entry, list):
        return [page for part in entry for page in pages(part)]
    if not isinstance(entry, dict):
        return []
    own = [entry[key] for key in ("root", "file") if key in entry]
    return own + [page for value in entry.values() for page in pages(value)]


def main(folder: str) -> int:
    """Copy configuration and pages beside the executed notebooks; name the missing ones."""
    stage = Path(folder).resolve()
    stage.mkdir(parents=True, exist_ok=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(ROOT / name, stage / name)
    shutil.rmtree(stage / "book", ignore_errors=True)
    shutil.copytree(ROOT / "book", stage / "book")
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    missing = [page for page in pages(contents)
               if page.startswith("nbs/") and not (stage / f"{page}.ipynb").exists()]
    for page in missing:
        print(f"stage.py: {stage / page}.ipynb is missing; run nbs/run.py first", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python nbs/stage.py FOLDER")
    sys.exit(main(sys.argv[1]))
