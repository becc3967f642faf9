"""deepspeed.json: ZeRO stage, offload, buckets. The same mapping stands inline in axolotl.yaml, which is what trains.

Inline, because Axolotl accepts a path that does not exist or that is relative to another folder (docs/axolotl-rules.md,
rule 21).
The file is for people, reviews, and launchers that want one.
"""

from __future__ import annotations

import json
from typing import Any

from compiler.memory.static import static_state
from compiler.memory.zero import PERSISTENT_ROWS, bucket_elements, layer_elements, live_elements
from compiler.values import Artefact, Plan

NEVER = 2_000_000_000
"""Steps between DeepSpeed's own prints: Axolotl logs already."""


def emit(plan: Plan) -> Artefact | None:
    """`<recipe>/<target>/deepspeed.json`, or None where the plan has no ZeRO."""
    config = deepspeed_config(plan)
    if config is None or not plan.fits:
        return None
    text = json.dumps(config, indent=2) + "\n"
    return Artefact(f"{plan.case.recipe.name}/{plan.case.target}/deepspeed.json", text)


def deepspeed_config(plan: Plan) -> dict[str, Any] | None:
    """DeepSpeed 0.18.9's configuration. Every value is a number, none is `auto`: transformers checks them against
    Axolotl's."""
    setup = plan.setup
    if not setup.zero_stage:
        return None
    clipping = plan.decision("max_grad_norm").value
    config: dict[str, Any] = {
        "train_batch_size": setup.effective_batch,
        "train_micro_batch_size_per_gpu": setup.micro_batch,
        "gradient_accumulation_steps": setup.gradient_accumulation,
        "gradient_clipping": float(clipping),
        "bf16": {"enabled": setup.precision == "bf16"},
        "fp16": _fp16(setup.precision == "fp16"),
        "zero_optimization": _zero(plan),
        # Axolotl names a torch optimizer; without these two DeepSpeed insists on its own, which it compiles at start.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": NEVER,
        "wall_clock_breakdown": False,
    }
    return config


def _fp16(enabled: bool) -> dict[str, Any]:
    if not enabled:
        return {"enabled": False}
    return {"enabled": True, "loss_scale": 0, "initial_scale_power": 16, "loss_scale_window": 1000, "hysteresis": 2,
            "min_loss_scale": 1}  # fmt: skip


def _zero(plan: Plan) -> dict[str, Any]:
    setup, architecture = plan.setup, plan.case.model.architecture
    hidden, bucket = architecture.hidden_size, bucket_elements(static_state(architecture, setup).trainable_parameters)
    pinned = plan.case.machine.backend != "cpu"  # pinned memory is for copies to a device
    zero: dict[str, Any] = {
        "stage": setup.zero_stage,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": bucket,
    }
    if setup.zero_stage < 3:
        zero["allgather_bucket_size"] = bucket
        zero["reduce_scatter"] = True
    else:
        # the values transformers computes for `auto` (integrations/deepspeed.py), written out
        zero["stage3_prefetch_bucket_size"] = int(0.9 * hidden * hidden)
        zero["stage3_param_persistence_threshold"] = PERSISTENT_ROWS * hidden
        # its defaults of 10^9 keep all weights of a model under 500 million parameters gathered
        zero["stage3_max_live_parameters"] = live_elements(architecture)
        zero["stage3_max_reuse_distance"] = layer_elements(architecture)
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if setup.offload in ("optimizer", "params"):
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pinned}
    if setup.offload == "params":
        zero["offload_param"] = {"device": "cpu", "pin_memory": pinned}
    return zero
