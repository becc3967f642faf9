"""What a rule of the front door sees and says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
