"""Score `compiler.speed` on published training runs, and calibrate `compiler/facts/rates.yaml` on them.

    python benchmarks/speed_fit.py           write docs/speed.md from the committed rates
    python benchmarks/speed_fit.py --fit     also print freshly fitted rates, and errors on groups that took no part

Rows: tests/data/speed_rows.json. Those with `calibrates: false` were never fitted on.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from compiler import speed, traffic
from compiler.architecture import Architecture
from compiler.facts import gpus, models, rates
from compiler.padding import row_tokens
from compiler.traffic import Stack
from compiler.values import DatasetFacts, Machine, Setup

sys.path.insert(0, str(Path(__file__).resolve().parent))
from speed_levers import Row, kendall, lever_table, mean_error, repeats, table

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "tests" / "data" / "speed_rows.json"
FITTED = (
    "matmul_share",
    "a10g_share",
    "memory_share",
    "attention_share",
    "dequantise_bytes_per_weight",
    "launch_seconds",
    "link_share",
    "pcie_share",
    "collective_seconds",
    "straggler_share",
    "step_seconds",
    "strided_factor",
    "thin_factor",
    "gather_wait_seconds",
    "old_dequantise_seconds",
)
PRIOR = {
    "matmul_share": (0.75, 0.3),
    "a10g_share": (0.5, 0.4),
    "memory_share": (0.8, 0.2),
    "attention_share": (0.52, 0.1),
    "dequantise_bytes_per_weight": (8, 0.5),
    "launch_seconds": (2e-5, 0.6),
    "link_share": (0.6, 0.5),
    "pcie_share": (0.38, 0.5),
    "collective_seconds": (1e-3, 0.7),
    "straggler_share": (0.01, 0.5),
    "step_seconds": (0.03, 1.0),
    "strided_factor": (1.2, 0.3),
    "thin_factor": (2.0, 0.5),
    "gather_wait_seconds": (2e-4, 1.0),
    "old_dequantise_seconds": (1.3e-11, 0.3),
}
"""Expected value and spread (of the logarithm): weak, so that a rate no row tells of stays plausible.
Attention's is narrow: the rows' lengths are alike, only its published rate (arXiv 2307.08691) sets it apart."""
OLD_DEQUANTISE_SECONDS = 1.2e-11
"""A weight on either card with the bitsandbytes that LitGPT pinned (0.41, 0.42): bound by instructions, not bandwidth
(A10G and A100 have about as many multiprocessors times clock). No plan uses it."""
FEWER_TOKENS = ((100_000, 0.875), (40_000, 0.90), (0, 1.0))
"""Vocabularies above -> tokens of a row over those with 32,000 entries: Alpaca's prompt templates and five answers of
its kind, counted with the tokenizers of Mistral Nemo (131,000), SmolLM2 (49,000) and Mistral v1."""
GENERATED_TOKENS = 100
"""LitGPT generates so many at every evaluation."""


def load() -> dict[str, Any]:
    return json.loads(ROWS.read_text(encoding="utf-8"))


def architecture_of(name: str, shapes: dict[str, Any]) -> Architecture:
    """From the catalogue; three architectures that no plan accepts stand as a family of the same shape."""
    if name not in shapes:
        return models()[name].architecture
    a = shapes[name]
    return Architecture(
        model_type="llama" if a["gated_mlp"] else "starcoder2",
        vocab_size=a["vocab"],
        hidden_size=a["hidden"],
        intermediate_size=a["ffn"],
        num_layers=a["layers"],
        num_heads=a["heads"],
        num_kv_heads=a["kv_heads"],
        head_dim=a["head_dim"],
        tie_word_embeddings=a["tied_embeddings"],
        max_position_embeddings=4096,
        gated_mlp=a["gated_mlp"],
        attention_bias=a["qkv_bias"],
    )


def machine_of(gpu_id: str, count: int) -> Machine:
    gpu = gpus()[gpu_id]
    assert gpu.vram_bytes is not None
    return Machine(
        id=gpu.id,
        name=gpu.name,
        backend=gpu.backend,
        count=count,
        vram_bytes=gpu.vram_bytes,
        budget_bytes=gpu.vram_bytes,
        host_ram_bytes=None,
        capability=gpu.capability,
        bf16=gpu.bf16,
        fp16=gpu.fp16,
        tf32=gpu.tf32,
        flash_attention_2=gpu.flash_attention_2,
        bf16_tflops=gpu.bf16_tflops,
        bandwidth_gb_s=gpu.bandwidth_gb_s,
        interconnect_gb_s=gpu.device_link_gb_s,
        peer_to_peer=gpu.peer_to_peer,
        price_usd_per_hour=None,
        host_gb_s=gpu.host_gb_s,
    )


def case_of(row: dict[str, Any], shapes: dict[str, Any]) -> tuple[Architecture, Setup, Machine, speed.Stack]:
    architecture = architecture_of(row["model"], shapes)
    if row["group"].startswith("litgpt"):
        architecture = replace(architecture, tie_word_embeddings=False)  # it loads them apart
    names = {linear.name for linear in architecture.linears}
    targets = row.get("lora_targets", "all-linear")
    if not isinstance(targets, str):
        targets = tuple(name for name in targets if name in names)
    setup = Setup(
        method=row["method"],
        micro_batch=row["micro_batch"],
        gradient_accumulation=row["gradient_accumulation"],
        sequence_len=row["sequence_len"],
        gradient_checkpointing=row["checkpointing"],
        optimizer=row.get("optimizer", "adamw_torch"),
        attention=row["attention"],
        cross_entropy=row["cross_entropy"],
        sample_packing=False,
        precision="bf16",
        weights_dtype="bf16",
        lora_r=row.get("lora_r"),
        lora_targets=targets,
        lora_dropout=0.05 if row["group"].startswith("litgpt") else 0.0,  # LitGPT's files; its default too
        lora_kernels=row.get("lora_kernels", False),
        zero_stage=row["zero_stage"],
        devices=row["devices"],
    )
    return architecture, setup, machine_of(row["gpu"], row["devices"]), Stack(**row["stack"])


def predict(row: dict[str, Any], data: dict[str, Any], old_dequantise: float) -> tuple[float, float]:
    """(predicted, measured): tokens a second and device, or rows a second of a run with its evaluations."""
    architecture, setup, machine, stack = data["cases"][row["id"]]
    if "tokens_per_second_per_device" in row:
        length = float(setup.sequence_len)
        step = sum(part[1] for part in speed.step_parts(architecture, setup, machine, length, length, stack))
        tokens = setup.micro_batch * setup.gradient_accumulation * length
        return tokens / step, row["tokens_per_second_per_device"]
    if "bitsandbytes" in row:
        stack = replace(stack, dequantise_seconds=old_dequantise)
    dataset = data["datasets"][row["dataset"]]
    mean = dataset["mean_tokens"] * next(share for above, share in FEWER_TOKENS if architecture.vocab_size > above)
    facts = DatasetFacts(1, 0, mean, round(mean * dataset["p99_ratio"]), setup.sequence_len, False, None, None, None)
    padded, _, attended = row_tokens(setup, facts)
    step = sum(part[1] for part in speed.step_parts(architecture, setup, machine, padded, attended, stack))
    per_row = step / (setup.micro_batch * setup.gradient_accumulation)
    seconds = row["rows"] * per_row
    if "evaluations" in row:  # a forward is a third of a step; a generated token is bound by its launches
        kernels = speed.micro_work(architecture, setup, attended, stack).kernels * 1.0 / 2.6
        token = kernels * speed.rates()["launch_seconds"]
        if setup.devices > 1:  # every pass gathers all weights, that of one token as well
            weights = architecture.parameters.total * speed.weight_bytes(setup)
            token += (1 - 1 / setup.devices) * weights / speed.link_bytes_per_second(machine)
        generation = GENERATED_TOKENS * token
        seconds += row["evaluations"] * (row["evaluation_rows"] * per_row / 3 + generation)
    return row["rows"] / seconds, row["rows"] / row["seconds"]


def prepared() -> dict[str, Any]:
    data = load()
    return data | {"cases": {row["id"]: case_of(row, data["architectures"]) for row in data["rows"]}}


def by_group(
    data: dict[str, Any], old_dequantise: float = OLD_DEQUANTISE_SECONDS
) -> dict[str, list[tuple[float, float]]]:
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in data["rows"]:
        groups.setdefault(row["group"], []).append(predict(row, data, old_dequantise))
    return groups


def with_rates(values: dict[str, float]) -> float:
    """Make `compiler.speed` and `compiler.traffic` use these rates; returns the old bitsandbytes' seconds a weight."""
    changed = rates() | {name: values[name] for name in FITTED[2:-1] if name != "pcie_share"}
    changed["pcie_share"] = rates()["pcie_share"] | {"a10g": values["pcie_share"]}
    changed["matmul_share"] = rates()["matmul_share"] | {"sm_80": values["matmul_share"], "a10g": values["a10g_share"]}
    speed.rates = traffic.rates = lambda: changed
    traffic.forget()
    return values["old_dequantise_seconds"]


def fit(data: dict[str, Any], rows: list[dict[str, Any]], tries: int, seed: int = 0) -> dict[str, float]:
    """Random search on the mean absolute log error, every group weighing the same, plus the priors."""
    chance = random.Random(seed)

    def cost(values: dict[str, float]) -> float:
        old = with_rates(values)
        groups: dict[str, list[float]] = {}
        for row in rows:
            predicted, measured = predict(row, data, old)
            groups.setdefault(row["group"], []).append(abs(math.log(predicted / measured)))
        error = sum(sum(errors) / len(errors) for errors in groups.values()) / len(groups)
        return error + 0.002 * sum((math.log(values[n] / PRIOR[n][0]) / PRIOR[n][1]) ** 2 for n in FITTED)

    best = {name: PRIOR[name][0] for name in FITTED}
    lowest, step = cost(best), 0.3
    for attempt in range(tries):
        trial = dict(best)
        for name in chance.sample(FITTED, chance.choice((1, 1, 2, 3))):
            trial[name] *= math.exp(chance.gauss(0, step))
        if trial["memory_share"] > 1 or trial["matmul_share"] > 0.95:
            continue
        value = cost(trial)
        if value < lowest:
            best, lowest = trial, value
        if attempt % 500 == 499:
            step *= 0.7
    return best


def left_out(data: dict[str, Any], tries: int, kind: str) -> dict[str, list[float]]:
    """[mean error, Kendall's tau] of each group (or model family) predicted with rates fitted on the others alone."""
    calibrating = [row for row in data["rows"] if row["calibrates"]]
    result = {}
    for name in dict.fromkeys(part_of(row, kind) for row in calibrating):
        old = with_rates(fit(data, [row for row in calibrating if part_of(row, kind) != name], tries))
        pairs = [predict(row, data, old) for row in calibrating if part_of(row, kind) == name]
        result[name] = [round(mean_error(pairs), 4), round(kendall(pairs), 3) if len(pairs) > 2 else 0.0]
    return result


def part_of(row: dict[str, Any], kind: str) -> str:
    return row["group"] if kind == "group" else data_model(row["model"])


def data_model(model: str) -> str:
    """Model family, as far as the rows tell families apart."""
    name = model.rpartition("/")[2].lower()
    for family in ("llama-2", "llama-3", "mistral", "santacoder", "powerlm", "stablelm", "falcon"):
        if family in name:
            return family
    return name


def rows_of(data: dict[str, Any]) -> list[Row]:
    return [Row(row, *predict(row, data, OLD_DEQUANTISE_SECONDS)) for row in data["rows"]]


def page(data: dict[str, Any], kept: dict[str, Any]) -> str:
    rows = rows_of(data)
    fitted = [(row.predicted, row.measured) for row in rows if row.row["calibrates"]]
    same = repeats(rows)["fms"][1]
    filled = {
        "table": "\n".join(table(rows, kept)),
        "levers": "\n".join(lever_table(rows)),
        "families": ", ".join(f"{name} {one[0]:.1%}" for name, one in kept.get("family", {}).items()),
        "resource": f"{kept.get('group', {}).get('litgpt-resource-lora', [0.0])[0]:.0%}",
        "all": f"{mean_error(fitted):.1%}",
        "fitted": str(len(fitted)),
        "twins": f"{len(same)} setups were measured twice: they differ by "
        f"{sum(same) / len(same) - 1:.1%} on average, {max(same) - 1:.1%} at most",
    }
    text = (ROOT / "benchmarks" / "speed_page.md").read_text(encoding="utf-8")
    for name, value in filled.items():
        text = text.replace("{" + name + "}", value)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="fit again and cross-validate (minutes)")
    parser.add_argument("--tries", type=int, default=4000)
    arguments = parser.parse_args()
    data = prepared()
    file = ROOT / "benchmarks" / "speed_left_out.json"
    kept = json.loads(file.read_text(encoding="utf-8"))
    text = page(data, kept)
    if arguments.fit:
        values = fit(data, [row for row in data["rows"] if row["calibrates"]], arguments.tries)
        print(json.dumps({name: float(f"{value:.3g}") for name, value in values.items()}, indent=2))
        kept = {kind: left_out(data, arguments.tries, kind) for kind in ("group", "family")}
        file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        print("left out:", json.dumps(kept, indent=2), "now run again without --fit")
        return
    (ROOT / "docs" / "speed.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
