"""How to start a generated config: the command, the environment it needs, and what must be installed."""

from __future__ import annotations

from compiler import AXOLOTL_VERSION
from compiler.values import Plan

CUT_CROSS_ENTROPY = (
    "cut-cross-entropy[transformers] @ git+https://github.com/axolotl-ai-cloud/ml-cross-entropy.git@4dfa522"
)
"""Axolotl 0.19's own install line (axolotl/integrations/cut_cross_entropy/__init__.py): it is not one of its
dependencies."""


def config_path(plan: Plan) -> str:
    """Relative to the project root, where every command is run."""
    return f"generated/{plan.case.recipe.name}/{plan.case.target}/axolotl.yaml"


def environment(plan: Plan) -> dict[str, str]:
    """Variables that no config key can set. Telemetry has none (axolotl/telemetry/manager.py)."""
    machine = plan.case.machine
    variables = {"AXOLOTL_DO_NOT_TRACK": "1"}
    if machine.backend == "cuda" and plan.setup.devices > 1 and not machine.peer_to_peer:
        variables["NCCL_P2P_DISABLE"] = "1"
    return variables


def train_command(plan: Plan) -> str:
    """`axolotl train` of this config; several devices start with torchrun, which reads no accelerate config file."""
    command = f"axolotl train {config_path(plan)}"
    if plan.setup.devices > 1:
        command += f" --launcher torchrun -- --nproc_per_node={plan.setup.devices}"
    return command


def shell_line(plan: Plan) -> str:
    """The command with its environment in front."""
    variables = " ".join(f"{name}={value}" for name, value in environment(plan).items())
    return f"{variables} {train_command(plan)}"


def merge_command(plan: Plan) -> str:
    """On the CPU, so that it cannot run out of the memory that training needed (rule 40 of docs/axolotl-rules.md)."""
    return f'CUDA_VISIBLE_DEVICES="" axolotl merge-lora {config_path(plan)}'


def requirements(plan: Plan) -> list[str]:
    """What has to be installed on the target, each with its reason where it is not plain."""
    setup, machine = plan.setup, plan.case.machine
    needed = [f"axolotl=={AXOLOTL_VERSION}"]
    if machine.backend == "cpu" or plan.decision("label_smoothing").value:
        needed.append("finetune-recipes (its plugin runs inside Axolotl)")
    if setup.attention == "flash_attention_2":
        needed.append("flash-attn>=2.6, or the prebuilt kernel that Axolotl fetches from the hub")
    if setup.cross_entropy == "cut":
        needed.append(CUT_CROSS_ENTROPY)
    if setup.zero_stage:
        needed.append("deepspeed==0.18.9")
    return needed
