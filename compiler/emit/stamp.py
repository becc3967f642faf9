"""What a generated file was made from: digests of the parsed recipe and of the facts it used. No clock, no host, no
path."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from compiler.values import Plan


def canonical(value: Any) -> Any:
    """A value of plain JSON types, the same for equal input. Raises TypeError on a type that has no stable text.

    >>> canonical({"b": (1, None), "a": "x"})
    {'b': [1, None], 'a': 'x'}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if hasattr(value, "model_dump"):  # a pydantic model, without importing pydantic
        return canonical(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value):
        return {item.name: canonical(getattr(value, item.name)) for item in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no stable text, so it cannot be part of a digest")


def digest(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON; the order of keys does not count."""
    text = json.dumps(canonical(value), sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def recipe_digest(plan: Plan) -> str:
    """Of the parsed recipe with this target alone: another target's settings do not change this target's files."""
    recipe = canonical(plan.case.recipe)
    targets = recipe.get("targets")
    if isinstance(targets, dict):
        recipe["targets"] = {name: value for name, value in targets.items() if name == plan.case.target}
    return digest(recipe)


def facts_digest(plan: Plan) -> str:
    """Of the facts this plan used: its model and its machine, not the whole catalogue."""
    return digest({"model": plan.case.model, "machine": plan.case.machine})
