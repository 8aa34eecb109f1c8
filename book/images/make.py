"""Draw book/images/overview.svg, the picture of the introduction, from the printed tables.

    python book/images/make.py
"""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from flatbook import published

X, Y = "avg_flatness_rloss", "rloss_test_pgd"
# method -> shift of its label in points and its horizontal alignment
LABELS = {
    "at": (-7, 4, "right"), "unlabeled": (8, -5, "left"), "awp0.01": (8, -4, "left"),
    "trades6": (8, 1, "left"), "mart6": (-7, 4, "right"), "silu": (8, -4, "left"),
    "wd0": (-8, 3, "right"), "lr0.01": (0, -15, "center"),
}  # fmt: skip
GREY, BLUE, ORANGE = "#9a9a9a", "#0072b2", "#d55e00"


def scatter(ax, df):
    """All models as dots; the ones in LABELS by name; the correlation in the corner."""
    ax.scatter(df[X], df[Y], s=22, color=GREY, alpha=0.55, linewidths=0)
    for method, (dx, dy, side) in LABELS.items():
        row = df.loc[method]
        color = BLUE if row[Y] < 2.3 else ORANGE
        ax.scatter(row[X], row[Y], s=42, color=color, edgecolors="white", linewidths=0.8, zorder=3)
        ax.annotate(row["label"], (row[X], row[Y]), (dx, dy), textcoords="offset points",
                    ha=side, color=color, fontsize=10)  # fmt: skip
    found = published.correlation(df, X, Y)
    ax.text(0.03, 0.965, f"{found.n} models\nPearson {found.pearson:.2f}", transform=ax.transAxes,
            va="top", fontsize=10.5)  # fmt: skip
    ax.set(xlim=(0, 2.75), ylim=(0.9, 4.65),
           xlabel="average-case flatness in RLoss, ξ = 0.5   (left: flatter)",
           ylabel="RLoss on test images   (lower: more robust)")  # fmt: skip
    ax.spines[["top", "right"]].set_visible(False)


def valley(ax, title, width, color):
    """A sketch: the loss over the weights, and how much it rises when the weights move by ν."""
    w = np.linspace(-1, 1, 200)
    height = lambda v: 1 - np.exp(-((v / width) ** 2))
    ax.plot(w, height(w), color=color, lw=1.8)
    step = 0.36
    ax.plot([0, step], [0, 0], color="0.45", lw=1)
    ax.annotate("", (step, height(step)), (step, 0), arrowprops={"arrowstyle": "->", "lw": 1.4})
    ax.plot(0, 0, "o", ms=5, color=color)
    ax.text(0, -0.07, "w ", ha="right", va="top", fontsize=9.5)
    ax.text(step - 0.08, -0.07, "w + ν", va="top", fontsize=9.5)
    ax.set_title(title, fontsize=9.5, pad=1)
    ax.set(xlim=(-1, 1), ylim=(-0.3, 1.08), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def main():
    matplotlib.rcParams.update({"svg.hashsalt": "flatlib", "font.size": 10.5})
    fig, ax = plt.subplots(figsize=(6.6, 4.7), layout="constrained")
    scatter(ax, published.stutz2021())
    valley(ax.inset_axes([0.46, 0.02, 0.25, 0.25]), "flat: small rise", 0.95, BLUE)
    valley(ax.inset_axes([0.74, 0.02, 0.25, 0.25]), "sharp: large rise", 0.27, ORANGE)
    target = Path(__file__).resolve().parent / "overview.svg"
    fig.savefig(target, metadata={"Date": None})
    plt.close(fig)


if __name__ == "__main__":
    main()
