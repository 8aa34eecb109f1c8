"""A time budget: long work stops between two steps and goes on in a later call."""

import time


class TimeIsUp(Exception):
    """The time given is over; what was finished is kept."""


def left(until: float | None) -> float:
    """Seconds until then, at least 0; -1, which a lock takes for no limit, if there is no limit."""
    return -1 if until is None else max(0.0, until - time.time())


def check(until: float | None) -> None:
    """Raise ``TimeIsUp`` if ``time.time()`` has reached ``until``; None is no limit."""
    if until is not None and time.time() >= until:
        raise TimeIsUp
