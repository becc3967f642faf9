"""Recipe + facts -> Case: the model, one target machine and what is known of the dataset."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compiler.base_model import find_model
from compiler.problems import WorldProblem
from compiler.recipe import CustomGpu, Recipe, Target
from compiler.values import Case, DatasetFacts, Machine

PCIE_3_GB_S = 15.75
"""PCIe 3.0 x16, one direction: what a card is given that does not state its link."""
RAM_SHARE = 0.75
"""Of `host_ram` that a CPU target may take when no `ram_budget` is stated: the system and its caches need the rest."""

ASSUMED_MEAN_TOKENS, ASSUMED_P99_TOKENS, ASSUMED_MAX_TOKENS = 160, 512, 1024
"""Of a question and its answer, before a dataset is built. plan.md says that they are assumed."""
ASSUMED_ROWS = 10_000
"""Of a recipe that names no dataset."""
CALIBRATION = "calibration.yaml"
"""At the project root: measurements of its own runs (`compiler.calibrate`)."""
TRAIN_CSV, EVAL_CSV, LOCK = "train.csv", "eval_recall.csv", "dataset.lock.json"


def resolve(recipe: Recipe, target: str, root: str | Path = ".") -> Case:
    """Join a recipe with the facts of its model and of one target. Raises WorldProblem.

    `root` is the project root, under which `generated/` lies; paths in the result are relative to it.
    """
    if target not in recipe.targets:
        known = ", ".join(recipe.targets)
        raise WorldProblem(f"recipe `{recipe.name}` has no target `{target}`", f"name one of {known}")
    machine = _with_measurements(find_machine(recipe.targets[target]), Path(root))
    return Case(recipe, target, find_model(recipe.base_model), machine, find_dataset(recipe, Path(root)))


def _with_measurements(machine: Machine, root: Path) -> Machine:
    """The machine, with what this project's own runs on it said."""
    if not (root / CALIBRATION).is_file():
        return machine
    from compiler.calibrate import measured_for

    return replace(machine, measured=measured_for(machine, root))


def find_machine(target: Target) -> Machine:
    """The machine that a target describes. Raises WorldProblem: unknown GPU, or a CPU whose RAM nobody stated."""
    if isinstance(target.gpu, CustomGpu):
        return _described(target, target.gpu)
    from compiler.facts import gpus

    if target.gpu not in gpus():
        near = gpus().near(target.gpu)
        hint = f"did you mean {' or '.join(f'`{name}`' for name in near)}? " if near else ""
        raise WorldProblem(
            f"`{target.gpu}` is no known GPU",
            f"{hint}`recipe explain gpus` lists them; or describe the card in a mapping",
        )
    gpu = gpus()[target.gpu]
    vram_bytes = _ram(target) if gpu.backend == "cpu" else gpu.vram_bytes
    assert vram_bytes is not None, f"{gpu.id} has no memory in the facts"
    return Machine(
        id=gpu.id,
        name=gpu.name,
        backend=gpu.backend,
        count=target.count,
        vram_bytes=vram_bytes,
        budget_bytes=min(target.vram_budget or target.ram_budget or vram_bytes, vram_bytes),
        host_ram_bytes=target.host_ram or (vram_bytes if gpu.backend == "cpu" else None),
        capability=gpu.capability,
        bf16=gpu.bf16,
        fp16=gpu.fp16,
        tf32=gpu.tf32,
        flash_attention_2=gpu.flash_attention_2,
        bf16_tflops=gpu.bf16_tflops if gpu.bf16_tflops is not None else gpu.fp16_tflops,
        bandwidth_gb_s=gpu.bandwidth_gb_s,
        interconnect_gb_s=gpu.device_link_gb_s,
        peer_to_peer=gpu.peer_to_peer,
        price_usd_per_hour=gpu.price_usd_per_hour,
        notes=gpu.notes,
        host_gb_s=gpu.host_gb_s,
        bf16_native=gpu.bf16_native,
    )


def _described(target: Target, card: CustomGpu) -> Machine:
    """A card that the recipe describes; features follow from the CUDA capability, as the data sheets have it."""
    cuda, cpu = card.backend == "cuda", card.backend == "cpu"
    capability = (card.capability or ("sm_80" if card.bf16 else "sm_75")) if cuda else None
    ampere = capability is not None and int(capability.removeprefix("sm_").rstrip("a")) >= 80
    link = None if cpu else card.interconnect_gb_s or PCIE_3_GB_S
    budget = target.vram_budget or target.ram_budget or card.vram
    return Machine(
        id=card.name,
        name=card.name,
        backend=card.backend,
        count=target.count,
        vram_bytes=card.vram,
        budget_bytes=min(budget, card.vram),
        host_ram_bytes=target.host_ram or (card.vram if cpu else None),
        capability=capability,
        bf16=card.bf16,
        fp16=not cpu,
        tf32=ampere,
        flash_attention_2=ampere or card.backend == "rocm",
        bf16_tflops=card.bf16_tflops,
        bandwidth_gb_s=card.bandwidth_gb_s,
        interconnect_gb_s=link,
        peer_to_peer=card.peer_to_peer,
        price_usd_per_hour=card.price_usd_per_hour,
        notes=("The card is described in the recipe, not taken from the catalogue.",),
        host_gb_s=None if cpu else PCIE_3_GB_S,
        bf16_native=card.bf16,
    )


def _ram(target: Target) -> int:
    """What a CPU target has. The catalogue cannot know it, and this machine need not be the one that trains."""
    if target.vram_budget is not None and target.ram_budget is None:
        raise WorldProblem("a CPU has no VRAM", "write `ram_budget` instead of `vram_budget`")
    if target.ram_budget is None and target.host_ram is None:
        raise WorldProblem("a CPU target needs its memory", "add `ram_budget: 16 GiB`, or as much as training may take")
    return target.ram_budget or round(RAM_SHARE * (target.host_ram or 0))


def find_dataset(recipe: Recipe, root: Path = Path(".")) -> DatasetFacts:
    """What is known of the rows: from the lock of the built dataset, else assumed. Raises WorldProblem for a broken
    lock."""
    if recipe.dataset is None:
        return _assumed(ASSUMED_ROWS, 0, None)
    folder = Path("generated") / recipe.name / "dataset"
    built = built_dataset(recipe.name, root)
    if built is not None:
        return built
    pairs, evaluation = recipe.dataset.pairs, recipe.dataset.evaluation
    rows = pairs.total or pairs.unique * (10 if pairs.profile == "recall" else 4)
    recall = evaluation.recall if evaluation.recall is not None else min(200, pairs.unique // 10)
    return _assumed(rows, recall, folder)


def built_dataset(name: str, root: Path = Path(".")) -> DatasetFacts | None:
    """What the lock of the recipe `name` says; None where no dataset is built. Raises WorldProblem for a broken
    lock."""
    folder = Path("generated") / name / "dataset"
    lock = root / folder / LOCK
    if not lock.is_file():
        return None
    try:
        return _measured(json.loads(lock.read_text(encoding="utf-8")), folder)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise WorldProblem(
            f"`{folder / LOCK}` is damaged", f"restore it from git, or run `recipe data` for {name} again"
        ) from None


def _assumed(rows: int, eval_rows: int, folder: Path | None) -> DatasetFacts:
    return DatasetFacts(
        rows=rows,
        eval_rows=eval_rows,
        mean_tokens=float(ASSUMED_MEAN_TOKENS),
        p99_tokens=ASSUMED_P99_TOKENS,
        max_tokens=ASSUMED_MAX_TOKENS,
        measured=False,
        sha256=None,
        train_path=None if folder is None else (folder / TRAIN_CSV).as_posix(),
        eval_path=None if folder is None else (folder / EVAL_CSV).as_posix(),
        eval_max_tokens=ASSUMED_P99_TOKENS,
    )


def _measured(lock: Mapping[str, Any], folder: Path) -> DatasetFacts:
    """Only `rows` must be there; a length that the lock does not hold is assumed."""
    histogram = lock.get("length_histogram") or ()
    pairs = histogram.items() if isinstance(histogram, Mapping) else histogram
    return DatasetFacts(
        rows=int(lock["rows"]),
        eval_rows=int(lock.get("eval_rows", 0)),
        mean_tokens=float(lock.get("mean_tokens", ASSUMED_MEAN_TOKENS)),
        p99_tokens=int(lock.get("p99_tokens", ASSUMED_P99_TOKENS)),
        max_tokens=int(lock.get("max_tokens", ASSUMED_MAX_TOKENS)),
        measured="mean_tokens" in lock,
        sha256=lock.get("train_sha256"),
        eval_sha256=dict(lock.get("files") or ()).get(EVAL_CSV),
        train_path=str(lock.get("train_path") or (folder / TRAIN_CSV).as_posix()),
        eval_path=str(lock.get("eval_path") or (folder / EVAL_CSV).as_posix()),
        eval_max_tokens=int(lock.get("eval_max_tokens", lock.get("max_tokens", ASSUMED_MAX_TOKENS))),
        length_histogram=tuple(sorted((int(bound), int(rows)) for bound, rows in pairs)),
    )
