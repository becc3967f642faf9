"""What may go wrong through no bug of ours, and how it is told.

    ProblemError
    ├── RecipeProblems   a recipe is at fault: every problem of it, each with its place and a fix
    └── WorldProblem     the machine is at fault: a missing package, a full disk, no network

A command wraps itself in `reporting()`; then either of them, and the dataset builder's own `BuildProblem`, is printed
and the exit status is 1. Wrong usage of a command is click's business (exit status 2). Anything else that escapes is a
bug of ours.
"""

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from compiler.quick import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a file, where, and how to mend it."""

    message: str
    fix: str
    file: str = ""
    """As the user named it."""
    line: int = 1
    """1 is the first line."""
    column: int = 1
    """1 is the first character of the line."""
    source_line: str = ""
    """Text of that line, without its line end."""

    def __str__(self) -> str:
        """`file:line:column: message`, the line, a caret below the column, and the fix.

        >>> print(Problem("epochs is negative", "write a number above 0", "a.yaml", 2, 11, "  epochs: -1"))
        a.yaml:2:11: epochs is negative
            2 |   epochs: -1
              |           ^
          fix: write a number above 0
        """
        head = f"{self.file}:{self.line}:{self.column}: {self.message}"
        number = f"{self.line:5d}"
        text, caret = excerpt(self.source_line, self.column)
        shown = [f"{number} | {text}".rstrip(), f"{' ' * len(number)} | {caret}^"] if self.source_line else []
        return "\n".join([head, *shown, f"  fix: {self.fix}"])


def excerpt(line: str, column: int, width: int = 140) -> tuple[str, str]:
    """The part of a long line around `column` (1-based), printable, and the blanks that put a caret below the
    column."""
    start = max(0, column - 1 - width // 2) if len(line) > width else 0
    shown = line[start : start + width]
    printable = "".join(char if char.isprintable() else " " for char in shown)
    prefix = "… " if start else ""
    return prefix + printable, " " * (len(prefix) + column - 1 - start)


class ProblemError(Exception):
    """The recipe or the world is at fault; `str()` is what the user is told."""


class RecipeProblems(ProblemError):
    """Everything that is wrong with a recipe."""

    def __init__(self, problems: Sequence[Problem]):
        assert problems, "RecipeProblems is raised for at least one problem"
        self.problems = tuple(problems)
        super().__init__("\n\n".join(str(problem) for problem in problems))


class WorldProblem(ProblemError):
    """One thing that is wrong with the machine: what, and how to mend it.

    >>> print(WorldProblem("axolotl is not installed", fix="pip install 'finetune-recipes[train]'"))
    axolotl is not installed
      fix: pip install 'finetune-recipes[train]'
    """

    def __init__(self, message: str, fix: str | None = None):
        self.message, self.fix = message, fix
        super().__init__(f"{message}\n  fix: {fix}" if fix else message)


@contextmanager
def reporting() -> Iterator[None]:
    """Print a problem on standard error and leave with status 1; usable as `with reporting():` and as a decorator.

        @click.command()
        @reporting()
        def command(): ...

    An OSError that names a file (disk full, no permission, not a directory) is the world's fault too.
    """
    from dataset_builder.problems import BuildProblem

    try:
        yield
    except (ProblemError, BuildProblem) as error:
        print(error, file=sys.stderr)
    except OSError as error:
        full = error.errno == errno.ENOSPC  # of what is printed to, where no file is named
        if not error.strerror or (error.filename is None and not full):
            raise
        print(f"{error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
    else:
        return
    raise SystemExit(1)
