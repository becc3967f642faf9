"""What a rule sees: the case, what was settled before it and, after the choice, the setup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from compiler.quick import dataclass
from compiler.values import Case, Decision, Setup


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan in the making. Rules read it and return one Decision each; nobody changes it in place."""

    case: Case
    decided: Mapping[str, Decision] = field(default_factory=dict)
    setup: Setup | None = None
    """The chosen setup; None for the rules that run before the choice."""

    def value(self, name: str) -> Any:
        """What an earlier rule settled. A KeyError means that the rules stand in the wrong order."""
        return self.decided[name].value

    def asked(self, name: str) -> Any:
        """The value that the recipe states under `training:`, or None where it leaves the choice to the planner."""
        training = self.case.recipe.training
        if name not in training.model_fields_set:
            return None
        stated = getattr(training, name)
        return None if stated == "auto" else stated

    def states(self, name: str) -> bool:
        return self.asked(name) is not None

    @property
    def full(self) -> bool:
        """Full fine-tuning happens only when it is asked for (docs/quality-policy.md), so it is known before the
        choice."""
        return self.asked("method") == "full" if self.setup is None else self.setup.method == "full"


def stated(name: str, value: Any, rule: str | None = None, note: str = "") -> Decision:
    """A value that the recipe states. The reason is a path, not a line: moving a line changes no output."""
    because = f"asked for in the recipe (`training.{name}`)"
    return Decision(name, value, f"{because}; {note}" if note else because, rule or name)


def percent(share: float) -> str:
    """A share for people: two significant digits below 10 %, none after the point above.

    >>> percent(0.0042), percent(0.256), percent(0)
    ('0.42 %', '26 %', '0 %')
    """
    number = 100 * share
    return f"{number:.2g} %" if abs(number) < 10 else f"{number:.0f} %"
