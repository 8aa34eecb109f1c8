"""Prepare a folder from which jupyter-book can build the book of notebooks executed by run.py; the
others are those of the repository.

    python nbs/run.py fig01 fig02 --out _build/live/nbs -p source live
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


def main(folder: str) -> None:
    """Copy configuration, pages and the notebooks that were not executed beside those that were."""
    stage = Path(folder).resolve()
    stage.mkdir(parents=True, exist_ok=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(ROOT / name, stage / name)
    shutil.rmtree(stage / "book", ignore_errors=True)
    shutil.copytree(ROOT / "book", stage / "book")
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    for page in pages(contents):
        target = stage / f"{page}.ipynb"
        if page.startswith("nbs/") and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / f"{page}.ipynb", target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python nbs/stage.py FOLDER")
    main(sys.argv[1])
