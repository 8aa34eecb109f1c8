"""Keys: what a number belongs to, as text made of the settings that differ from their defaults.

A new setting with a default therefore moves no key. The price: **a default is never changed**, for
that would give old keys another meaning in silence. A better default is a new setting (or a new
class), and tests/test_keys.py pins today's defaults by their values.
"""

import hashlib
import json
from dataclasses import MISSING, fields, is_dataclass
from numbers import Real


def settings(record) -> dict[str, str]:
    """The fields of a record that differ from their defaults, described; those without one always.

    The one rule for run keys, for the protocol of a measure, and for the names of methods.
    """
    changed = [f.name for f in fields(record) if getattr(record, f.name) != _default(f)]
    return {name: describe(getattr(record, name)) for name in changed}


def _default(field):
    """A field's default; ``MISSING``, which equals no value, where it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def describe(value) -> str:
    """A value as text, a record as its name and settings: "PGD(eps=0.0353)".

    What is equal is described alike (6 and 6.0), and in every process: anything else is refused.
    """
    if value is None or isinstance(value, (str, bool)):
        return repr(value)
    if isinstance(value, Real):
        number = float(value)
        return repr(int(value) if number.is_integer() else number)
    if isinstance(value, tuple):
        inside = [describe(part) for part in value]
        return f"({', '.join(inside)}{',' if len(inside) == 1 else ''})"
    if not is_dataclass(value) or not value.__dataclass_params__.frozen:
        raise ValueError(
            f"{value!r}: write a part as a frozen dataclass with __call__ and its settings as "
            f"fields (see the page How to add a method); a run's key is made of them"
        )
    inside = ", ".join(f"{name}={text}" for name, text in settings(value).items())
    return f"{type(value).__name__}({inside})"


def digest(what: dict, digits: int) -> str:
    """The first hexadecimal digits of the SHA-256 of a JSON-able dict, whatever its order."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:digits]
