"""The 74 methods as one table: how each is called in the paper, and what differs from AT.

``python -m flatbook.methods_page`` prints it; with ``--page FILE`` it is brought up to date between
the two marks in that page of the book.
"""

import argparse
import re
from dataclasses import fields
from pathlib import Path

import pandas as pd

from flatbook import published
from flatlib.catalogue import CATALOGUE
from flatlib.catalogue.stutz2021 import TABLE1
from flatlib.files import checkpoints, progress
from flatlib.keys import describe
from flatlib.training.methods import differences

MARKS = "<!-- methods: begin -->", "<!-- methods: end -->"


def table() -> pd.DataFrame:
    """A row per method, index "method": "family", "label" (its name in the paper), "row" (1 to 74,
    its place in the printed Table 5), "table1" (whether Table 1 has it), "differences" from AT.

    A method that the paper does not have is labelled by its own name; its row is 0.
    """
    printed = published.stutz2021()
    order = {name: place for place, name in enumerate(printed.index, 1)}
    rows = [
        (
            name,
            printed.family.get(name, "own"),
            printed.label.get(name, name),
            order.get(name, 0),
            name in TABLE1,
            said(method),
        )
        for name, method in CATALOGUE.items()
    ]
    columns = ["method", "family", "label", "row", "table1", "differences"]
    return pd.DataFrame(rows, columns=columns).set_index("method")


def said(method) -> str:
    """What differs from AT, as one would write it in ``replace(AT, ...)``; floats shortened."""
    text = ", ".join(f"{slot}={_part(getattr(method, slot))}" for slot in differences(method))
    return re.sub(r"\d+\.\d{5,}", lambda found: f"{float(found[0]):.4g}", text)


def _part(part) -> str:
    """A part and its settings; its first one even where it is the default."""
    text = describe(part)
    if not text.endswith("()") or not fields(part):
        return text
    first = fields(part)[0].name
    return f"{type(part).__name__}({first}={describe(getattr(part, first))})"


def plain() -> str:
    """The table for a terminal."""
    df = table().reset_index()
    columns = ["method", "row", "label", "differences"]
    widths = [max(map(len, map(str, [name, *df[name]]))) for name in columns]
    rows = [columns, *df[columns].astype(str).to_numpy().tolist()]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


def markdown() -> str:
    """The table for a page: method, its name and row in Table 5, what differs from AT."""
    lines = ["| Method | In the paper | Row | Differs from AT in |", "|---|---|--:|---|"]
    for name, row in table().iterrows():
        shown = f"`{row.differences}`" if row.differences else "nothing"
        label = f"**{row.label}**" if row.table1 else row.label
        lines.append(f"| `{name}` | {label} | {row.row or '–'} | {shown} |")
    return "\n".join(lines)


def paged(text: str) -> str:
    """``text``, a page, with the table between its two marks as it is now."""
    if [text.count(mark) for mark in MARKS] != [1, 1]:
        raise ValueError(f"the page needs {MARKS[0]} and {MARKS[1]}, once each")
    before, rest = text.split(MARKS[0])
    return f"{before}{MARKS[0]}\n{markdown()}\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


def main(arguments: list[str] | None = None) -> None:
    """The command line: ``python -m flatbook.methods_page --help``."""
    parser = argparse.ArgumentParser(prog="python -m flatbook.methods_page", description=__doc__)
    parser.add_argument("--page", type=Path, help="write the table into this page, print nothing")
    page = parser.parse_args(arguments).page
    if page is None:
        progress.until_the_pipe_breaks()
        print(plain())
    else:
        checkpoints.write(page, paged(page.read_text("utf-8")))


if __name__ == "__main__":
    main()
