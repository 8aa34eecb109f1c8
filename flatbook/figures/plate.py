"""A finished figure on a page: an SVG in the page's light and dark colours, a caption, a text for
those who do not see it, and its files (SVG, PDF, PNG, the numbers as CSV).
"""

import io
import re
from base64 import b64encode
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib import pyplot as plt

from flatbook.figures.style import style
from flatlib.files import atomic, paths, progress

FILES = "figure-files:"  # what links begin with; the book's extension puts the folder there
KINDS = ("svg", "pdf", "png", "csv")
_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
_PNG_DPI = 80  # the PNG stands in where no SVG is shown, such as on code hosts


@dataclass(frozen=True)
class Plate:
    """A figure as a page shows it; `mount` makes it."""

    name: str  # of its files
    files: dict[str, bytes]  # kind -> content
    caption: str
    alt: str  # what a reader hears who does not see it

    def __repr__(self):
        return self.alt

    def _repr_mimebundle_(self, include=None, exclude=None):
        about = {"name": self.name}
        data = {
            "text/plain": self.alt, "text/html": self.html(), "image/png": _text(self.files["png"]),
            "application/pdf": _text(self.files["pdf"]), "text/csv": self.files["csv"].decode(),
        }  # fmt: skip
        return data, {"flatbook": about}

    def html(self):
        """The figure as an element of a page."""
        links = " · ".join(f'<a href="{FILES}{self.name}.{kind}" download>{kind.upper()}</a>'
                           for kind in KINDS)  # fmt: skip
        return (f'<figure class="plate" id="{escape(self.name)}">\n{self._drawing()}\n'
                f"<figcaption>{escape(self.caption)} "
                f'<span class="files">{links}</span></figcaption></figure>')  # fmt: skip

    def _drawing(self):
        """The SVG as part of a page: its own identifiers, colours that a page may replace."""
        svg = self.files["svg"].decode()
        svg = svg[svg.index("<svg"):]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r"\s+", " ", svg)  # a notebook keeps each line as a text of its own
        svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        svg = re.sub(r"#([0-9a-f]{6})\b(?=[;\"])", r"var(--c-\1, #\1)", svg)
        width = float(re.search(r'width="([\d.]+)pt"', svg)[1])
        style = f"width: 100%; max-width: {width / 72:.2f}in; height: auto"
        frame = f'<svg role="img" aria-label="{escape(self.alt)}" style="{style}"'
        return re.sub(r'<svg(.*?) width="[^"]*"', rf"{frame}\1", re.sub(
            r' height="[^"]*pt"', "", svg, count=1), count=1, flags=re.DOTALL)  # fmt: skip


def _text(content):
    return b64encode(content).decode()


def mount(fig, numbers, name, caption, profile, alt=None):
    """A figure as a page shows it; its files are also written to _build/figures/<profile>.

    numbers: a table of what is drawn. alt: by default made from what the panels hold, see
    `described`. Empty panels and texts that lie on each other are told. The same figure gives the
    same bytes; each file appears complete or not at all.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"name={name!r}; valid: letters, digits, '_', '-' and '.'")
    for trouble in troubles(fig):
        progress.say(f"{name}: {trouble}")
    named = numbers.index.name is not None or numbers.index.nlevels > 1
    csv = numbers.to_csv(index=named, lineterminator="\n", float_format="%.6g")
    files = {kind: _drawn(fig, kind, name) for kind in KINDS[:-1]} | {"csv": csv.encode()}
    words = alt or described(fig)
    plt.close(fig)
    plate = Plate(name, files, caption, words)
    _keep(plate, paths.ROOT / "_build" / "figures" / profile)
    return plate


def _drawn(fig, kind, name):
    buffer = io.BytesIO()
    with style(), plt.rc_context({"svg.hashsalt": name}):
        fig.savefig(buffer, format=kind, metadata=_UNDATED[kind], bbox_inches="tight",
                    dpi=_PNG_DPI if kind == "png" else "figure")  # fmt: skip
    return _shortened(buffer.getvalue()) if kind == "svg" else buffer.getvalue()


def _shortened(svg):
    """The same drawing with the points of its paths to a hundredth of 1/72 inch: half as large."""
    points = re.compile(rb'(?<= d=")[^"]*')
    return points.sub(lambda path: re.sub(rb"(\.\d\d)\d+", rb"\1", path[0]), svg)


def _keep(plate, folder):
    try:
        for kind, content in plate.files.items():
            atomic.write(folder / f"{plate.name}.{kind}", content)
    except OSError as error:  # a checkout that only shows what is stored need not be writable
        progress.say(f"the figure is shown but not kept as {plate.name}.*: {error}")


def troubles(fig):
    """What is wrong with a drawn figure, a line each: empty panels, texts on each other."""
    found = []
    if blank := sum(map(_empty, fig.axes)):
        found.append(f"{blank} empty panel{'s' * (blank > 1)}")
    fig.canvas.draw()
    for ax in fig.axes:
        boxes = [(text.get_text(), text.get_window_extent()) for text in ax.texts
                 if text.get_text() and text.get_visible()]  # fmt: skip
        for place, (one, box) in enumerate(boxes):
            for other, rest in boxes[place + 1:]:
                if _shared(box, rest) > 0.15 * min(_area(box), _area(rest)):
                    found.append(f"{one!r} lies on {other!r}")
    return found


def _empty(ax):
    """Whether axes that are shown have nothing in them; a line across them is nothing."""
    return ax.get_visible() and ax.axison and not np.isfinite(ax.dataLim.get_points()).all()


def _area(box):
    return box.width * box.height


def _shared(box, other):
    wide = min(box.x1, other.x1) - max(box.x0, other.x0)
    high = min(box.y1, other.y1) - max(box.y0, other.y0)
    return max(wide, 0) * max(high, 0)


def described(fig):
    """What a figure shows, in words, from the artists in its panels."""
    panels = [ax for ax in fig.axes if ax.get_visible() and ax.axison and ax.has_data()]
    return " ".join(_panel(ax) for ax in panels) or "An empty figure."


def _panel(ax):
    title = ax.get_title(loc="left") or ax.get_title()
    x, y = ax.get_xlabel(), ax.get_ylabel()
    head = f"{title}: " if title else ""
    points = np.ma.concatenate([np.empty((0, 2)), *(c.get_offsets() for c in ax.collections)])
    points = np.asarray(points)[np.isfinite(points).all(axis=1)]
    lines = [line for line in ax.lines if len(line.get_xdata()) > 2]
    parts = []
    if len(points):
        parts.append(f"{len(points)} points, {x} from {_span(points[:, 0])}, "
                     f"{y} from {_span(points[:, 1])}")  # fmt: skip
    for line in lines:
        name = line.get_label()
        value = np.asarray(line.get_ydata(), float)
        value = value[np.isfinite(value)]
        if len(value):
            called = "a curve" if name.startswith("_") else name
            parts.append(f"{called} from {value[0]:.3g} to {value[-1]:.3g}")
    if lines and not len(points):
        head += f"{y} against {x}: "
    return f"{head}{'; '.join(parts) or 'an image'}."


def _span(values):
    return f"{values.min():.3g} to {values.max():.3g}"
