"""The escape hatch: Axolotl keys stated by hand in the recipe (`axolotl:`), merged last.

`recipe check` has already refused keys that Axolotl does not know, that the compiler must own, or that have a field of
their own under `training:`. What is left to look at is how a key goes with the rest of the config, which only the plan
knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from compiler.emit.commented import Key, Section, to_mapping
from compiler.problems import WorldProblem
from compiler.values import Plan


def by_hand(plan: Plan, made: Iterable[Section]) -> Section:
    """The keys of `axolotl:` as the last section. Raises WorldProblem with every clash and its fix."""
    stated = plan.case.recipe.axolotl
    ours = to_mapping(made)
    found = clashes(stated, {**ours, **stated})
    if found:
        where = f"recipe {plan.case.recipe.name}, target {plan.case.target}"
        raise WorldProblem(f"{where}: what stands under `axolotl:` would break the run\n  " + "\n  ".join(found))
    keys = []
    for name, value in stated.items():
        instead = f"; the plan had {ours[name]!r}" if name in ours and ours[name] != value else ""
        keys.append(Key(name, value, f"stated by hand (`axolotl.{name}`){instead}"))
    return Section("stated by hand", tuple(keys))


def clashes(stated: Mapping[str, Any], merged: Mapping[str, Any]) -> list[str]:
    """What is wrong with the keys stated by hand, given the whole config that they are part of."""
    return [text for check in CLASHES if (text := check(stated, merged))]


def _plugin_key(stated: Mapping[str, Any], merged: Mapping[str, Any]) -> str | None:
    listed = [str(plugin) for plugin in merged.get("plugins") or []]
    for name in stated:
        if name.startswith("liger_") and not any(".liger." in plugin for plugin in listed):
            return (
                f"{name}: Axolotl drops it without Liger's plugin; write training.cross_entropy: liger, or leave it out"
            )
    return None


def _kernels(stated: Mapping[str, Any], merged: Mapping[str, Any]) -> str | None:
    on = any(value and name.startswith("lora_") and name.endswith("_kernel") for name, value in merged.items())
    for name in ("trust_remote_code", "peft_layers_to_transform"):
        if on and stated.get(name):
            return f"{name}: does not go with Axolotl's LoRA kernels; write training.lora_kernels: false"
    return None


def _deepspeed_as_path(stated: Mapping[str, Any], merged: Mapping[str, Any]) -> str | None:
    if stated.get("deepcompile"):
        return "deepcompile: Axolotl 0.19 opens `deepspeed` as a path for it, and the plan's is inline; leave it out"
    return None


def _automatic(stated: Mapping[str, Any], merged: Mapping[str, Any]) -> str | None:
    for name in ("torch_compile", "batch_flattening"):
        if stated.get(name) == "auto":
            return f"{name}: `auto` depends on the machine that reads it; write true or false"
    return None


CLASHES = (_plugin_key, _kernels, _deepspeed_as_path, _automatic)
"""Each looks at (what is stated by hand, the whole config); these pass Axolotl's check and fail, or fail late."""
