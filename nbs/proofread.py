"""Look through executed pages for what the stored ones do not have, and say so.

    python nbs/run.py fig01 --out _build/live/nbs -p source live
    python nbs/proofread.py _build/live/nbs

Looked for are NaN, empty panels, and verdicts on claims that differ from those of the stored page.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat

NBS = Path(__file__).resolve().parent
NAN = re.compile(r"\bnan\b", re.IGNORECASE)
EMPTY = re.compile(r"^\S+: \d+ empty panels?$", re.MULTILINE)
ROW = re.compile(r"<tr>\s*<th>(.*?)</th>(.*?)</tr>", re.DOTALL)
VERDICT = re.compile(r"<td>(holds|fails|open|not printed)\b")


def texts(notebook) -> Iterator[str]:
    """What the cells of a notebook show, besides pictures: each output in its richest form."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            kinds = [kind for kind in ("text/html", "text/markdown", "text/plain") if kind in data]
            yield data[kinds[0]] if kinds else output.get("text", "")


def verdicts(shown: list[str]) -> dict[str, tuple[str, ...]]:
    """Claim -> its verdicts, one for each source, from the tables of ``claims.table``."""
    rows = [row for text in shown for row in ROW.findall(text)]
    found = {claim.strip(): tuple(VERDICT.findall(cells)) for claim, cells in rows}
    return {claim: words for claim, words in found.items() if words}


def blemishes(page, stored) -> list[str]:
    """What an executed notebook shows and the stored one does not, a line each."""
    new, old = list(texts(page)), list(texts(stored))
    more = sum(len(NAN.findall(text)) for text in new) - sum(len(NAN.findall(t)) for t in old)
    lines = [f"{more} more NaN than the stored page"] if more > 0 else []
    known = {line for text in old for line in EMPTY.findall(text)}
    lines += [line for text in new for line in EMPTY.findall(text) if line not in known]
    before = verdicts(old)
    for claim, words in verdicts(new).items():
        if claim in before and words != before[claim]:
            lines.append(f"“{claim}” reads {', '.join(words)}; stored: {', '.join(before[claim])}")
    return lines


def main(folder: str) -> None:
    """Compare each page in ``folder`` with the stored notebook of the same name."""
    pages = sorted(p for p in Path(folder).resolve().rglob("*.ipynb") if p.name[0] != ".")
    found = 0
    for path in pages:
        name = path.relative_to(Path(folder).resolve())
        page, stored = (nbformat.read(p, as_version=4) for p in (path, NBS / name))
        for line in blemishes(page, stored):
            print(f"{name.with_suffix('').as_posix()}: {line}")
            found += 1
    print(f"Looked through {len(pages)} pages: {found or 'nothing'} to look at")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python nbs/proofread.py FOLDER")
    main(sys.argv[1])
