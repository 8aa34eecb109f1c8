"""flatbook: the machinery of the book. Printed tables, claims and their verdicts, figures, pages.

``published`` are the papers' numbers, ``claims`` what the papers say and whether it holds,
``figures`` what is drawn. It stands on ``flatlib``, which knows nothing of it.
"""
