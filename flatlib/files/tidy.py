"""The tidy tables of runs and of results as CSV files, read strictly: a damaged or foreign row is
named with its line, before anything is done with the others.
"""

import csv
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pandas.api.types import is_bool_dtype

from flatlib.files.atomic import Damaged

COLUMNS = (
    "method", "seed", "asked", "which", "epoch", "split", "measure", "attack", "xi", "scope",
    "draws", "at", "n", "value", "std", "seconds", "profile", "key", "weights", "protocol",
    "commit", "torch", "device", "images",
)  # fmt: skip
LOGGED = (
    "epoch", "progress", "lr", "train_loss", "train_rloss", "train_rerr", "test_rloss", "test_rerr",
    "test_err", "test_rloss_correct", "test_rloss_incorrect", "seconds",
)  # fmt: skip
# Columns of hexadecimal digits, which a CSV reader may take for numbers ("91e952").
_TEXT = {name: str for name in ("key", "weights", "protocol", "commit")}
_CONFLICT = ("<<<<<<<", "|||||||", "=======", ">>>>>>>")


class Kind(NamedTuple):
    """What a table must have: columns of text and of whole numbers, never empty, and the column of
    numbers it is about; other columns of numbers or nothing, if it has them; what tells its rows
    apart; and the only columns there may be, if they are not free.
    """

    text: tuple[str, ...]
    whole: tuple[str, ...]
    about: str
    numbers: tuple[str, ...]
    unique: tuple[str, ...]
    only: tuple[str, ...] | None = None


_ROWS = Kind(
    ("method", "asked", "which", "split", "measure", "attack", "profile", "key", "protocol"),
    ("seed", "epoch", "n"), "value", ("xi", "draws", "at", "std", "seconds"),
    ("method", "seed", "key", "protocol", "asked", "which", "split", "measure", "attack", "xi",
     "scope", "draws", "at"),
)  # fmt: skip
MEASURES = _ROWS  # of a run: a measure of one's own may have further columns
RESULTS = _ROWS._replace(only=COLUMNS)
HISTORY = Kind((), ("epoch",), "lr", LOGGED[1:], ("epoch",), LOGGED)
CURVES = Kind(
    ("method", "key"), ("seed", "epoch"), "lr", LOGGED[1:], ("method", "seed", "epoch"),
    ("method", "seed", "profile", "key", "weights", *LOGGED),
)  # fmt: skip
STOPPING = Kind((), ("epoch",), "rerr", (), ("epoch",))


def read(path: Path, kind: Kind) -> pd.DataFrame:
    """A table written by flatlib; a damaged one is named, with the line if there is one, and left
    alone.
    """
    try:
        return parsed(path.read_text(), kind)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> Damaged:
    """The refusal of a table that cannot be what was written."""
    return Damaged(
        f"{path} is damaged ({error}). Nothing was overwritten: restore it, or move it away to "
        "compute it anew."
    )


def parsed(text: str, kind: Kind) -> pd.DataFrame:
    """The table that ``text`` is, if it is one of this kind; otherwise ``ValueError``."""
    if not text.endswith("\n"):
        raise ValueError("its last line is cut off")
    names = _lines(text)
    _columns(names, kind)
    table = pd.read_csv(StringIO(text), dtype=_TEXT, index_col=False, on_bad_lines="error")
    for name in (kind.about, *kind.numbers, *kind.whole):
        if name in table:
            _numbers(table[name], name in kind.whole)
    for name in kind.text:
        _refuse(table[name].isna(), f"no {name}")
    _refuse(table.duplicated([n for n in kind.unique if n in table]), "a row that is there twice")
    return table


def _lines(text: str) -> list[str]:
    """The header, once every line is found to have as many fields."""
    rows = csv.reader(StringIO(text), strict=True)
    names: list[str] = []
    try:
        for row in rows:
            if row and row[0].startswith(_CONFLICT):
                raise ValueError(f"line {rows.line_num}: a conflict marker")
            names = names or row
            if len(row) != len(names):
                raise ValueError(
                    f"line {rows.line_num}: {len(row)} fields, {len(names)} in the header"
                )
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}") from None
    return names


def _columns(names: list[str], kind: Kind) -> None:
    needed = {*kind.text, *kind.whole, kind.about}
    lacking, foreign = needed - {*names}, {*names} - {*(kind.only or names)}
    if lacking or foreign or len({*names}) < len(names):
        what = f"no column {sorted(lacking)}" if lacking else f"foreign columns {sorted(foreign)}"
        raise ValueError(f"line 1: {what if lacking or foreign else 'a column twice'}")


def _numbers(column: pd.Series, whole: bool) -> None:
    """Refuse what is no number, or no whole one of at least 0; nothing is one only if not whole."""
    values = pd.to_numeric(column, errors="coerce")
    _refuse((values.isna() & column.notna()) | is_bool_dtype(column), f"{column.name} is no number")
    if whole:
        wrong = values.isna() | (values < 0) | (values % 1 != 0)
        _refuse(wrong, f"{column.name} is no whole number")


def _refuse(wrong: pd.Series, why: str) -> None:
    if wrong.any():
        raise ValueError(f"line {wrong.to_numpy().argmax() + 2}: {why}")
