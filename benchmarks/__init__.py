"""Timings of flatlib, of a straightforward implementation and of other packages, side by side.

``python -m benchmarks`` runs them all; ``plain`` is the straightforward one.
"""
