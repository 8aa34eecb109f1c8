"""The training methods of the papers, by name.

A paper is a module with METHODS (name -> Method), GROUPS (name -> names of methods; "all" is one of
them) and a BASELINE. Those of the first paper are called by their names alone, "trades6"; those of
others with the paper in front, "<paper>/<name>". So a paper never changes what "all" of another is.
"""

import difflib

from flatlib.catalogue import stutz2021
from flatlib.training.methods import Method

FIRST = "stutz2021"
PAPERS = {FIRST: stutz2021}


class _Catalogue(dict):
    """Methods by name; an unknown name answers with the nearest ones."""

    def __missing__(self, name):
        near = difflib.get_close_matches(str(name), self, n=3, cutoff=0.3) or sorted(self)
        raise KeyError(f"no method {name!r}: did you mean one of {near}? All: {sorted(self)}")


def full(paper: str, name: str) -> str:
    """What a method or a group of a paper is called."""
    return name if paper == FIRST else f"{paper}/{name}"


CATALOGUE: dict[str, Method] = _Catalogue(
    {full(paper, name): m for paper, of in PAPERS.items() for name, m in of.METHODS.items()}
)
GROUPS: dict[str, tuple[str, ...]] = {
    full(paper, group): tuple(full(paper, name) for name in names)
    for paper, of in PAPERS.items()
    for group, names in of.GROUPS.items()
}


def paper(name: str) -> str:
    """The paper that a method or a group is of."""
    return name.partition("/")[0] if "/" in name else FIRST
