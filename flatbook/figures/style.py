"""How figures look: one style file, one screen font, the same on every machine."""

from pathlib import Path

import font_source_sans_pro as screen_font
from matplotlib import pyplot as plt
from matplotlib.font_manager import FontProperties, fontManager

FILE = Path(__file__).with_name("book.mplstyle")
FONT = "Source Sans Pro"

for _path in sorted(Path(screen_font.font_directory).glob("*.ttf")):
    if _path.stem.removeprefix("SourceSansPro-") in ("Regular", "It", "Bold"):
        fontManager.addfont(_path)


def style():
    """The style as a context manager: `with style(): ...`."""
    return plt.style.context(FILE)


def font() -> FontProperties:
    """For the size of texts that are not drawn yet."""
    return FontProperties(FONT)
