"""The explorer: all models as points in a browser, where axes, source and families are chosen."""

import math

import plotly.graph_objects as go
from plotly.io import to_html

from flatbook.figures import plots

LIBRARY = "../../_static/plotly.min.js"  # seen from a page; book/_ext/offline.py puts it there
SYMBOLS = {
    "*": "star", "v": "triangle-down", "s": "square", "D": "diamond", "^": "triangle-up",
    "P": "cross", "o": "circle", "X": "x", "h": "hexagon", ">": "triangle-right",
}  # fmt: skip
MENUS = ("points", "across", "up")  # what each drop-down chooses
SETTINGS = {"displaylogo": False, "responsive": True}
SHARES = ("err_", "rerr_")  # columns of fractions, shown in percent
HOVER = ("%{text}<br><i>here</i><br>%{xaxis.title.text}: %{x}<br>%{yaxis.title.text}: %{y}"
         "<extra></extra>")  # fmt: skip


def figure(tables, measures, x, y, told=()):
    """Scatter of models with three drop-downs: the table drawn, and the measure along each axis.

    tables: heading -> table with a row per method: label, family and columns of `measures`, which
    maps columns to words. x, y: the columns shown first. Hovering names the method, where it is,
    and its numbers in the columns `told` of all tables, with "<column>_std" if there; a click on a
    family in the legend hides or shows it.
    """
    for name, column in (("x", x), ("y", y), *(("told", column) for column in told)):
        if column not in measures:
            raise ValueError(f"{name}={column!r}; valid choices: {', '.join(measures)}")
    cards = {column: measures[column] for column in told}
    parts = [(table, family, df) for table, full in tables.items()
             for family, df in _families(full)]  # fmt: skip
    first = next(iter(tables))
    traces = [_trace(df, family, cards, tables, table == first) for table, family, df in parts]
    title = {}
    for axis, column in (("x", x), ("y", y)):
        styles, layout = _along(axis, column, measures, parts)
        title |= layout
        for k, trace in enumerate(traces):
            trace.update({key: values[k] for key, values in styles.items()})
    shown = {table: {"visible": [table == other for other, _, _ in parts]} for table in tables}
    menus = [[(table, [styles]) for table, styles in shown.items()]]
    for axis in "xy":
        menus.append([(words, list(_along(axis, column, measures, parts)))
                      for column, words in measures.items()])  # fmt: skip
    active = [0, *(list(measures).index(column) for column in (x, y))]
    return go.Figure(traces).update_layout(_layout(menus, active)).update_layout(title)


def bundle(fig, name="explorer"):
    """The figure for `IPython.display.display(..., raw=True)`: HTML for the book, data for Lab."""
    html = to_html(fig, SETTINGS, include_plotlyjs=LIBRARY, full_html=False, div_id=name)
    data = fig.to_plotly_json() | {"config": SETTINGS}
    return {"text/html": html, "application/vnd.plotly.v1+json": data}


def _families(df):
    """(family, its rows) in the order of the legend."""
    order = [*plots.FAMILIES, *sorted(set(df["family"]) - set(plots.FAMILIES))]
    return [(f, df[df["family"] == f]) for f in order if (df["family"] == f).any()]


def _trace(df, family, measures, tables, visible):
    color, marker = plots.FAMILIES.get(family, plots.OTHER)
    size = 14 if marker == "*" else 10
    look = {"color": color, "symbol": SYMBOLS[marker], "size": size,
            "line": {"color": "white", "width": 0.7}}  # fmt: skip
    about = [_card(method, row, measures, tables) for method, row in df.iterrows()]
    return go.Scatter(mode="markers", name=family, legendgroup=family, marker=look, text=about,
                      hovertemplate=HOVER, visible=visible)  # fmt: skip


def _card(method, row, measures, tables):
    """What hovering tells: the name, and each measure in every table that has the method."""
    lines = [f"<b>{row['label'] or method}</b>, {row['family']}"]
    rows = {table: df.loc[method] for table, df in tables.items() if method in df.index}
    if len(rows) > 1:
        lines.append("<i>" + " | ".join(rows) + "</i>")
    for column, words in measures.items():
        values = [_number(row, column) for row in rows.values()]
        if set(values) != {"–"}:
            lines.append(f"{words}: {' | '.join(values)}")
    return "<br>".join(lines)


def _number(row, column):
    """A number of a row in words, with its standard deviation over seeds if there is one."""
    value, std = (float(row.get(name, math.nan)) for name in (column, f"{column}_std"))
    if math.isnan(value):
        return "–"
    form = ".1%" if column.startswith(SHARES) else ".2f"
    return f"{value:{form}}" + (f" ± {std:{form}}" if math.isfinite(std) else "")


def _along(axis, column, measures, parts):
    """What changes when `column` is chosen for an axis: (of each trace, of the layout)."""
    values = [_rounded(df.get(column, [math.nan] * len(df))) for _, _, df in parts]
    share = column.startswith(SHARES)
    layout = {f"{axis}axis.title.text": measures[column], f"{axis}axis.autorange": True,
              f"{axis}axis.tickformat": ".0%" if share else "",
              f"{axis}axis.hoverformat": ".1%" if share else ".2f"}  # fmt: skip
    return {axis: values}, layout


def _rounded(values):
    """Numbers to four digits, None where there is none: what JSON can say."""
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in values]


def _layout(menus, active):
    """Drop-downs above the axes, one below the other to suit a narrow page; legend below."""
    rows = [1.0 + 0.075 * (len(menus) - k) + 0.02 for k in range(len(menus))]
    boxes = [{"buttons": [{"label": words, "method": "update", "args": args}
                          for words, args in menu],
              "active": start, "x": 0.16, "xanchor": "left", "y": row, "yanchor": "middle",
              "pad": {"t": 0, "b": 0}, "bgcolor": "white"}
             for menu, start, row in zip(menus, active, rows, strict=True)]  # fmt: skip
    place = {"x": 0, "xref": "paper", "xanchor": "left", "yref": "paper", "yanchor": "middle"}
    names = [{"text": name, "y": row, "showarrow": False, **place}
             for name, row in zip(MENUS, rows, strict=True)]  # fmt: skip
    return {
        "updatemenus": boxes, "annotations": names, "height": 680, "dragmode": False,
        "template": "simple_white", "hoverlabel": {"align": "left", "bgcolor": "white"},
        "legend": {"orientation": "h", "y": -0.14, "yanchor": "top"},
        "margin": {"l": 55, "r": 10, "t": 160, "b": 40},
        "xaxis": {"showgrid": True}, "yaxis": {"showgrid": True},
    }  # fmt: skip
