"""Where the functions over rows run: here, or on a Ray cluster (`on_ray`). No stage knows which.

    for made in on.map(function, rows):
        ...

`map` gives one result a row, in the order of the rows, so that equal rows give equal bytes wherever they are worked on.
The function is one of a module (or a `functools.partial` of one), and rows and results are plain values: they travel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class Runner(Protocol):
    """What a stage needs of the place where it runs."""

    def map(self, function: Callable[[A], B], rows: Iterable[A]) -> Iterator[B]:
        """`function(row)` for every row, in their order; rows are taken as they are needed, never all at once.

        What `function` raises for a row is raised here, or as a BuildProblem that quotes it: no row is ever left out.
        """
        ...


class Here:
    """This process, one row after the other."""

    def map(self, function: Callable[[A], B], rows: Iterable[A]) -> Iterator[B]:
        return map(function, rows)


HERE = Here()
