"""Names beside points: each text takes the place where it hides least (used by `plots`)."""

import math

import numpy as np
from matplotlib.textpath import TextPath

from flatbook.figures.style import font

REACHES = (5, 12, 20, 30, 42, 56, 72, 90)  # distances tried, in points of print
TURNS = 16  # directions tried


def write_labels(ax, points, texts, others, size=8.0):
    """Write texts (N) beside points (N, 2), clear of the points `others` (M, 2); all in data units.

    Distances are those of the axes as they are now: set limits before. A text that does not
    stand right beside its point gets a thin line to it. Same input, same places.
    """
    if not len(texts):
        return
    ax.get_xlim(), ax.get_ylim()  # limits that matplotlib has put off are computed now
    to_print = 72 / ax.figure.dpi  # pixels to points of print
    here = ax.transData.transform(points) * to_print
    marks = ax.transData.transform(others) * to_print
    frame = ax.get_window_extent().extents * to_print
    boxes, prices = _candidates(here, [_width(text, size) for text in texts], size)
    reach = 3.0 + 1.5 * (marks[:, None] == here[None]).all(2).any(1)  # own points are drawn larger
    blocked = np.hstack([marks - reach[:, None], marks + reach[:, None]])
    fixed = np.stack([price + 0.5 * _overlap(box, blocked) + 30 * _outside(box, frame)
                      for box, price in zip(boxes, prices, strict=True)])  # fmt: skip
    orders = [np.argsort(key, kind="stable") for key in (here[:, 1], -here[:, 1], here[:, 0])]
    found = [_settle(order, here, boxes, fixed) for order in orders]
    chosen = min(found, key=lambda pair: pair[0])[1]
    for i, text in enumerate(texts):
        _write(ax, points[i], text, boxes[i, chosen[i]] - np.tile(here[i], 2), size)


def _width(text, size):
    return TextPath((0, 0), text, size=size, prop=font()).get_extents().width


def _candidates(here, widths, size):
    """Boxes (N, C, 4) around the points and what each costs for its distance (N, C), in points."""
    turns = np.arange(TURNS) * 2 * math.pi / TURNS
    reach, turn = (grid.ravel() for grid in np.meshgrid(REACHES, turns, indexing="ij"))
    x, y = np.cos(turn), np.sin(turn)
    left = reach * x - np.array(widths)[:, None] * (0.5 - 0.5 * np.clip(2 * x, -1, 1))
    low = np.broadcast_to(reach * y - size * (0.5 - 0.5 * y), left.shape)
    offset = np.stack([left, low, left + np.array(widths)[:, None], low + size], axis=2)
    price = np.broadcast_to(reach + 2.0 * (x < 0) - 2.0 * (np.abs(y) < 0.1), left.shape)
    return offset + np.tile(here, 2)[:, None], price


def _settle(order, here, boxes, fixed):
    """Total cost and the place (N,) of each text, after each has taken its cheapest in turn."""
    n = len(order)
    chosen = fixed.argmin(1)
    tips = np.clip(here[:, None], boxes[..., :2], boxes[..., 2:])
    leaders = np.concatenate([np.broadcast_to(here[:, None], tips.shape), tips], axis=2)
    for _ in range(6):
        total, before = 0.0, chosen.copy()
        for i in order:
            rest = np.delete(np.arange(n), i)
            there, lines = boxes[rest, chosen[rest]], leaders[rest, chosen[rest]]
            cost = fixed[i] + 3 * _overlap(boxes[i], there)
            cost = cost + 60 * _crossings(leaders[i], np.vstack([lines, *_diagonals(there)]))
            cost = cost + 60 * sum(_crossings(line, lines) for line in _diagonals(boxes[i]))
            chosen[i] = cost.argmin()
            total += cost.min()
        if (before == chosen).all():
            break
    return total, chosen


def _diagonals(boxes):
    return boxes, boxes[:, [0, 3, 2, 1]]


def _overlap(boxes, others):
    """Area (C,) that each box shares with the others (M, 4) in all."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.prod(np.clip(high - low, 0, None), axis=2).sum(1)


def _outside(boxes, frame):
    """How far (C,) each box sticks out of the frame (4,)."""
    out = np.clip(frame[:2] - boxes[:, :2], 0, None) + np.clip(boxes[:, 2:] - frame[2:], 0, None)
    return out.sum(1)


def _crossings(lines, others):
    """How many (C,) of the segments others (M, 4) each segment of lines (C, 4) crosses."""
    a, b = lines[:, None, :2], lines[:, None, 2:]
    c, d = others[None, :, :2], others[None, :, 2:]
    apart = (_side(a, b, c) * _side(a, b, d) < 0) & (_side(c, d, a) * _side(c, d, b) < 0)
    return apart.sum(1)


def _side(a, b, c):
    """Sign says on which side of the line a-b the point c lies."""
    ab, ac = b - a, c - a
    return ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]


def _write(ax, point, text, box, size):
    """One text with its lower left corner at `box` (offsets from the point, in points of print)."""
    ax.annotate(text, point, xytext=(box[0], box[1] + 0.18 * size), textcoords="offset points",
                fontsize=size, color="#1a1a1a", zorder=5)  # fmt: skip
    tip = np.clip(0, box[:2], box[2:])
    if np.hypot(*tip) > 8:
        ax.annotate("", point, xytext=tuple(tip), textcoords="offset points", zorder=2.5,
                    arrowprops={"arrowstyle": "-", "color": "#777777", "lw": 0.5,
                                "shrinkA": 0, "shrinkB": 3})  # fmt: skip
