"""Progress bars where somebody watches: in a terminal and in JupyterLab, not in stored output."""

import os
import signal
import sys

from tqdm import tqdm


def bar(*iterable, show: bool = True, **how) -> tqdm:
    """``tqdm`` on stderr, drawn if ``show`` and somebody is there to see it.

    A kernel started by JupyterLab has JPY_SESSION_NAME in its environment; one started by
    papermill, nbconvert or nbval has not, so that no bar enters a notebook's stored output.
    """
    watched = sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ
    return tqdm(*iterable, disable=not (show and watched), **how)


def say(text: str) -> None:
    """A line on stderr that does not tear a bar."""
    tqdm.write(text, file=sys.stderr)


def until_the_pipe_breaks() -> None:
    """Let a command end in silence when nobody reads on, as in ``... --list | head``."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
