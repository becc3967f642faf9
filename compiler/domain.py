"""The options of one searched field, and the values that stay out, each with its reason."""

from __future__ import annotations

from typing import Any

from compiler.quick import dataclass
from compiler.rules.draft import Draft


@dataclass(frozen=True, slots=True)
class Rejected:
    """A value that the search does not try."""

    value: Any
    reason: str
    runs: bool = False
    """True: it would run, but is not chosen unasked."""


@dataclass(frozen=True, slots=True)
class Domain:
    """What the search may try for one field; the order of the options is the preference between equals."""

    field: str
    options: tuple[Any, ...]
    because: str
    """Why the first option, or any for which `instead` has no reason of its own."""
    rejected: tuple[Rejected, ...] = ()
    asked: bool = False
    instead: tuple[tuple[Any, str], ...] = ()
    """(option, what is gained where it is chosen instead of the first)."""

    def reason(self, value: Any) -> str:
        """Why `value`, as a decision says it."""
        return dict(self.instead).get(value, self.because)

    def rejection(self, value: Any) -> Rejected | None:
        return next((one for one in self.rejected if one.value == value), None)

    @property
    def broken(self) -> str | None:
        """Why a pinned value cannot run."""
        if not self.asked:
            return None
        rejection = self.rejection(self.options[0])
        return rejection.reason if rejection and not rejection.runs else None


def domain(
    draft: Draft,
    field: str,
    options: tuple[Any, ...],
    because: str,
    rejected: tuple[Rejected, ...] = (),
    instead: tuple[tuple[Any, str], ...] = (),
) -> Domain:
    """The field's domain; where the recipe states the field, that value alone."""
    asked = draft.asked(field)
    if asked is None:
        return Domain(field, options, because, rejected, instead=instead)
    return Domain(field, (asked,), f"asked for in the recipe (`training.{field}`)", rejected, asked=True)
