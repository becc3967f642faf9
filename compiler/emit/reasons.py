"""Reasons of keys, taken from the plan's decisions."""

from __future__ import annotations

from typing import Any

from compiler.emit.commented import Key
from compiler.values import Plan


def why(plan: Plan, *fields: str) -> str:
    """The reasons of these decisions with their rules, as one sentence each. A KeyError means a decision is missing."""
    decisions = [plan.decision(name) for name in fields]
    return "; ".join(f"{decision.because} [{decision.rule}]" for decision in decisions)


def decided(plan: Plan, key: str, field: str, value: Any = None) -> Key:
    """A key that carries one decision; its value unless another spelling is given."""
    return Key(key, plan.decision(field).value if value is None else value, why(plan, field))
