"""Long tables of the book: published, measured, difference side by side, in a frame that scrolls.

`published.compare` makes the numbers, `sheet` shows them, `flat` gives them plain columns for CSV.
"""

from dataclasses import dataclass, field
from html import escape

import pandas as pd

from flatlib.files import paths

PLAIN = "var(--pst-color-background, var(--jp-layout-color0, #fff))"  # of the page it stands on
STYLE = f"""<style>
.sheet {{overflow: auto; max-height: 36rem; font-size: 0.85em; margin: 0.5em 0}}
.sheet table {{border-collapse: separate; border-spacing: 0; margin: 0}}
.sheet th, .sheet td {{padding: 0.15em 0.6em; text-align: right; white-space: nowrap;
  border: 0; background: {PLAIN}}}
.sheet thead th {{text-align: center; font-weight: normal}}
.sheet thead {{position: sticky; top: 0; z-index: 2}}
.sheet thead tr:last-child th {{border-bottom: 1px solid; text-align: right}}
.sheet th.row {{position: sticky; left: 0; z-index: 1; text-align: left; font-weight: normal;
  white-space: normal; min-width: 8em; max-width: 13em}}
.sheet .first {{border-left: 1px solid #8888}}
.sheet .difference {{opacity: 0.65}}
.sheet tr.split th, .sheet tr.split td {{border-top: 1px solid; font-style: italic}}
</style>"""


@dataclass(frozen=True)
class Sheet:
    """A table for a notebook; `sheet` makes it."""

    numbers: pd.DataFrame  # index: labels; columns: (heading, part)
    digits: dict
    groups: pd.Series | None = None

    def __repr__(self):
        return f"{len(self.numbers)} rows of {', '.join(self.headings)}"

    @property
    def headings(self):
        """The headings, once each, in order."""
        return list(dict.fromkeys(heading for heading, _ in self.numbers))

    def _repr_html_(self):
        body = []
        for place, (label, row) in enumerate(self.numbers.iterrows()):
            group = None if self.groups is None else self.groups.iloc[place]
            if group is not None and (place == 0 or group != self.groups.iloc[place - 1]):
                body.append(f'<tr class="split"><th class="row">{escape(str(group))}</th>'
                            f'<td colspan="{len(row)}"></td></tr>')  # fmt: skip
            cells = "".join(self._cell(column, value) for column, value in row.items())
            body.append(f'<tr><th class="row">{escape(str(label))}</th>{cells}</tr>')
        head, rows = self._head(), "\n".join(body)
        return (f'{STYLE}\n<div class="sheet"><table>\n<thead>{head}</thead>\n'
                f"<tbody>\n{rows}\n</tbody></table></div>")  # fmt: skip

    def _head(self):
        parts = list(self.numbers)
        spans = {heading: sum(h == heading for h, _ in parts) for heading in self.headings}
        above = "".join(f'<th class="first" colspan="{span}">{escape(heading)}</th>'
                        for heading, span in spans.items())  # fmt: skip
        below = "".join(f"<th{self._kind(column)}>{escape(column[1])}</th>" for column in parts)
        return f'<tr><th class="row"></th>{above}</tr><tr><th class="row"></th>{below}</tr>'

    def _kind(self, column):
        heading, part = column
        first = next(p for h, p in self.numbers if h == heading) == part
        kinds = ["first"] * first + ["difference"] * (part in ("difference", "std"))
        return f' class="{" ".join(kinds)}"' if kinds else ""

    def _cell(self, column, value):
        digits = self.digits.get(column[0], 2)
        sign = "+" if column[1] == "difference" else ""
        text = "–" if pd.isna(value) else f"{value:{sign}.{digits}f}".replace("-", "−")
        return f"<td{self._kind(column)}>{text}</td>"


def sheet(compared, headings, labels=None, groups=None):
    """`published.compare`'s table for the page: a scrolling frame, first column and head stay.

    headings: column -> (heading, digits); errors, columns "err…" and "rerr…", are shown in percent.
    labels: method -> name. groups: method -> group; a line is drawn where it changes.
    """
    unknown = [column for column in headings if column not in compared]
    if unknown:
        there = ", ".join(dict.fromkeys(column for column, _ in compared))
        raise ValueError(f"headings={unknown}: no such column; columns: {there}")
    shown = compared[list(headings)].copy()
    errors = [column for column in shown if column[0].startswith(("err", "rerr"))]
    shown[errors] *= 100
    titles = {column: f"{title}{', %' if column.startswith(('err', 'rerr')) else ''}"
              for column, (title, _) in headings.items()}  # fmt: skip
    shown.columns = pd.MultiIndex.from_tuples([(titles[c], part) for c, part in shown])
    digits = {titles[column]: digits for column, (_, digits) in headings.items()}
    if labels is not None:
        shown.index = [labels.get(method, method) for method in compared.index]
    ordered = None if groups is None else pd.Series([groups.get(m, "ours") for m in compared.index])
    return Sheet(shown, digits, ordered)


def flat(compared):
    """The same numbers with plain columns, "<column> <part>", for a CSV."""
    return compared.set_axis([f"{column} {part}" for column, part in compared], axis=1)


MARKS = {"holds": "✓", "fails": "✗"}  # verdict -> sign, so that colour is not all that tells
COLOURS = """<style>
.ledger table {border-collapse: collapse; font-size: 0.9em}
.ledger th, .ledger td {text-align: left; vertical-align: top; padding: 0.35em 0.6em;
  border-bottom: 1px solid #8885; white-space: normal; min-width: 9em}
.ledger td:first-child {min-width: 16em}
@media (max-width: 600px) {.ledger th, .ledger td {min-width: 6em; padding: 0.35em 0.3em}
  .ledger td:first-child {min-width: 11em}}
.ledger {overflow-x: auto; margin: 0.5em 0 1.5em}
.ledger .holds b {color: var(--holds, #00795a)} .ledger .fails b {color: var(--fails, #b83d00)}
.ledger .open {opacity: 0.75}
</style>"""


@dataclass(frozen=True)
class Ledger:
    """Verdicts for the page: a row per claim, a column per source. `found` is of `claims`."""

    found: pd.DataFrame
    pages: dict = field(default_factory=lambda: addresses())  # "stutz2021/fig08" -> its page

    def __repr__(self):
        return "\n".join(f"{row.id}: {row.source}: {row.verdict} {row.shown}".rstrip()
                         for row in self.found.itertuples())  # fmt: skip

    def _repr_html_(self):
        sources = list(dict.fromkeys(self.found["source"]))
        head = "".join(f"<th>{escape(source)}</th>" for source in sources)
        rows = []
        for _, claim in self.found.groupby("id", sort=False):
            of = claim.set_index("source")
            cells = "".join(_verdict(of.loc[source]) for source in sources)
            rows.append(f"<tr><td>{self._statement(claim.iloc[0])}</td>{cells}</tr>")
        body = "\n".join(rows)
        return (f'{COLOURS}\n<div class="ledger"><table>\n<thead><tr><th>claim</th>{head}</tr>'
                f"</thead>\n<tbody>\n{body}\n</tbody></table></div>")  # fmt: skip

    def _statement(self, claim):
        place = escape(claim["place"])
        if page := self.pages.get(f"{claim['paper']}/{claim['item']}"):
            place = f'<a href="{escape(page)}">{place}</a>'
        return f"{escape(claim['statement'])} <small>{place}</small>"


def addresses():
    """The page of each figure and table of each paper, as seen from the pages beside the papers'
    folders: "stutz2021/fig08" -> "stutz2021/fig08_robustness_and_flatness.html".
    """
    files = sorted((paths.ROOT / "nbs").glob("*/*.py"))
    return {f"{f.parent.name}/{f.stem.split('_')[0]}": f"{f.parent.name}/{f.stem}.html"
            for f in files}  # fmt: skip


def _verdict(row):
    kind = row["verdict"] if row["verdict"] in MARKS else "open"
    mark = f"{MARKS.get(kind, '')} <b>{escape(row['verdict'])}</b>".strip()
    return f'<td class="{kind}">{mark}<br><small>{escape(row["shown"])}</small></td>'
