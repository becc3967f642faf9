"""The options of one searched field, and the values that stay out, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    rejected: tuple[Rejected, ...] = ()
    asked: bool = False

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
    draft: Draft, field: str, options: tuple[Any, ...], because: str, rejected: tuple[Rejected, ...] = ()
) -> Domain:
    asked = draft.asked(field)
    if asked is None:
        return Domain(field, options, because, rejected)
    return Domain(field, (asked,), f"asked for in the recipe (`training.{field}`)", rejected, asked=True)
