"""A time budget: long work stops between two steps and goes on in a later call."""

import time


class TimeIsUp(Exception):
    """The time given is over; what was finished is kept."""


def check(until: float | None) -> None:
    """Raise ``TimeIsUp`` if ``time.time()`` has reached ``until``; None is no limit."""
    if until is not None and time.time() >= until:
        raise TimeIsUp
