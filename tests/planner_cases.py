"""Cases for the planner's tests, made of the real catalogue: a recipe in a line, resolved as the command would."""

from dataclasses import replace

from compiler.case import resolve
from compiler.recipe import Recipe
from compiler.values import Case, DatasetFacts

GIB = 2**30
GEMMA = "google/gemma-2-2b-it"
LLAMA_1B = "meta-llama/Llama-3.2-1B-Instruct"
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
QWEN = "Qwen/Qwen2.5-1.5B-Instruct"
SMALL = "Qwen/Qwen2.5-0.5B-Instruct"
PHI = "microsoft/Phi-3.5-mini-instruct"
DEV = {"gpu": "rtx-3090-ti", "vram_budget": "8 GiB", "host_ram": "64 GiB"}
CPU = {"gpu": "cpu", "ram_budget": "40 GiB"}


def case(model: str = GEMMA, target: dict | None = None, dataset: DatasetFacts | None = None, **training) -> Case:
    """The case of a recipe with this model, target and `training:`; without a dataset the lengths are assumed."""
    recipe = Recipe.model_validate(
        {"name": "test", "base_model": model, "targets": {"here": target or DEV}, "training": training}
    )
    found = resolve(recipe, "here")
    return replace(found, dataset=dataset) if dataset else found


def with_budget(found: Case, budget_bytes: int) -> Case:
    """The same case on a card with exactly this much memory."""
    return replace(found, machine=replace(found.machine, budget_bytes=budget_bytes, vram_bytes=budget_bytes))


def measured(rows: int = 10_000, **lengths: int) -> DatasetFacts:
    """A built dataset: `rows` rows with the histogram given as t<bound>=<rows>, such as t128=900, t256=100."""
    histogram = tuple((int(name[1:]), count) for name, count in lengths.items()) or ((128, rows // 2), (256, rows // 2))
    total = sum(count for _, count in histogram)
    mean = sum(bound * 0.8 * count for bound, count in histogram) / total
    return DatasetFacts(
        rows=rows,
        eval_rows=200,
        mean_tokens=mean,
        p99_tokens=histogram[-1][0],
        max_tokens=histogram[-1][0],
        measured=True,
        sha256="ab" * 32,
        train_path="generated/test/dataset/train.csv",
        eval_path="generated/test/dataset/eval_recall.csv",
        length_histogram=histogram,
    )
