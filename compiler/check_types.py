"""What a rule of the front door sees and says."""

from collections.abc import Mapping
from typing import Any

from compiler.quick import dataclass
from compiler.recipe import Recipe
from compiler.source import KeyPath
from compiler.values import Machine, Model


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something wrong at a path of the recipe; `check` adds line and column."""

    path: KeyPath
    message: str
    fix: str
    at_key: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """A recipe of valid fields, the machines among its targets that are known, and its model if that is known."""

    recipe: Recipe
    machines: Mapping[str, Machine]
    model: Model | None

    def stated(self, name: str) -> Any:
        """The value that stands under `training:`, or None where it is left out or `auto`."""
        if name not in self.recipe.training.model_fields_set:
            return None
        value = getattr(self.recipe.training, name)
        return None if value == "auto" else value

    def complain(self, name: str, message: str, fix: str, at_key: bool = False) -> Complaint:
        """A complaint about a field of `training:`."""
        return Complaint(("training", name), message, fix, at_key)


def close(word: str, among: list[str], least: float = 0.6) -> str | None:
    """The entry that most resembles a word, if any does; the only one that begins with it, before others."""
    from difflib import get_close_matches  # a sound recipe needs none of it

    begins = [entry for entry in among if len(word) > 2 and entry.lower().startswith(word.lower())]
    if len(begins) == 1:
        return begins[0]
    return next(iter(get_close_matches(word.lower()[:80], among, 1, least)), None)


def shown(value: Any, most: int = 60) -> str:
    """One printable line of what a stranger wrote."""
    text = "".join(char if char.isprintable() else " " for char in str(value))
    return text if len(text) <= most else text[: most - 1] + "…"
