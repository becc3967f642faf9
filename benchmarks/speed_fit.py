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
from pathlib import Path
from typing import Any

from compiler import speed
from compiler.architecture import Architecture
from compiler.facts import gpus, models, rates
from compiler.values import DatasetFacts, Machine, Setup

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
    "collective_seconds",
    "straggler_share",
    "step_seconds",
    "strided_factor",
    "alpaca",
    "alpaca2k",
)
PRIOR = {
    "matmul_share": (0.75, 0.3),
    "a10g_share": (0.5, 0.4),
    "memory_share": (0.8, 0.2),
    "attention_share": (0.52, 0.1),
    "dequantise_bytes_per_weight": (8, 0.5),
    "launch_seconds": (2e-5, 0.6),
    "link_share": (0.5, 0.5),
    "collective_seconds": (3e-4, 1.0),
    "straggler_share": (0.015, 0.2),
    "step_seconds": (0.03, 1.0),
    "strided_factor": (1.2, 0.3),
    "alpaca": (150, 0.4),
    "alpaca2k": (200, 0.4),
}
"""Expected value and spread (of the logarithm): weak, so that a rate no row tells of stays plausible.
Attention's is narrow: the rows' lengths are alike, only its published rate (arXiv 2307.08691) sets it apart."""
MEAN_TOKENS = {"alpaca": 179.0, "alpaca2k": 205.0}
"""Mean row length of the two datasets, fitted: their files state none."""
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
        optimizer="adamw_torch",
        attention=row["attention"],
        cross_entropy=row["cross_entropy"],
        sample_packing=False,
        precision="bf16",
        weights_dtype="bf16",
        lora_r=row.get("lora_r"),
        lora_targets=targets,
        lora_kernels=row.get("lora_kernels", False),
        zero_stage=row["zero_stage"],
        devices=row["devices"],
    )
    return architecture, setup, machine_of(row["gpu"], row["devices"]), speed.Stack(**row["stack"])


def predict(row: dict[str, Any], data: dict[str, Any], mean_tokens: dict[str, float]) -> tuple[float, float]:
    """(predicted, measured): tokens a second and device, or rows a second of a run with its evaluations."""
    architecture, setup, machine, stack = data["cases"][row["id"]]
    if "tokens_per_second_per_device" in row:
        length = float(setup.sequence_len)
        step = sum(part[1] for part in speed.step_parts(architecture, setup, machine, length, length, stack))
        tokens = setup.micro_batch * setup.gradient_accumulation * length
        return tokens / step, row["tokens_per_second_per_device"]
    mean, ratio = mean_tokens[row["dataset"]], data["datasets"][row["dataset"]]["p99_ratio"]
    facts = DatasetFacts(1, 0, mean, round(mean * ratio), 99999, False, None, None, None)
    padded, _, attended = speed.row_tokens(setup, facts)
    step = sum(part[1] for part in speed.step_parts(architecture, setup, machine, padded, attended, stack))
    per_row = step / (setup.micro_batch * setup.gradient_accumulation)
    seconds = row["rows"] * per_row
    if "evaluations" in row:  # a forward is a third of a step; a generated token is bound by its launches
        kernels = speed.micro_work(architecture, setup, attended, stack).kernels * 1.0 / 2.6
        generation = GENERATED_TOKENS * kernels * speed.rates()["launch_seconds"]
        seconds += row["evaluations"] * (row["evaluation_rows"] * per_row / 3 + generation)
    return row["rows"] / seconds, row["rows"] / row["seconds"]


def kendall(pairs: list[tuple[float, float]]) -> float:
    """Kendall's tau-b; predictions within 1e-9 count as tied. NaN where all are tied."""
    score = tied_x = tied_y = 0
    for i, (x, y) in enumerate(pairs):
        for other_x, other_y in pairs[:i]:
            same_x, same_y = abs(x - other_x) < 1e-9 * x, y == other_y
            tied_x, tied_y = tied_x + same_x, tied_y + same_y
            if not same_x and not same_y:
                score += 1 if (x - other_x) * (y - other_y) > 0 else -1
    total = len(pairs) * (len(pairs) - 1) / 2
    below = (total - tied_x) * (total - tied_y)
    return score / math.sqrt(below) if below > 0 else math.nan


def prepared() -> dict[str, Any]:
    data = load()
    return data | {"cases": {row["id"]: case_of(row, data["architectures"]) for row in data["rows"]}}


def by_group(data: dict[str, Any], mean_tokens: dict[str, float]) -> dict[str, list[tuple[float, float]]]:
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in data["rows"]:
        groups.setdefault(row["group"], []).append(predict(row, data, mean_tokens))
    return groups


def mean_error(pairs: list[tuple[float, float]]) -> float:
    return sum(abs(predicted / measured - 1) for predicted, measured in pairs) / len(pairs)


def with_rates(values: dict[str, float]) -> dict[str, float]:
    """Make `compiler.speed` use these rates; returns the mean tokens among them."""
    changed = rates() | {name: values[name] for name in FITTED[2:11]}
    changed["matmul_share"] = rates()["matmul_share"] | {"sm_80": values["matmul_share"], "a10g": values["a10g_share"]}
    speed.rates = lambda: changed
    return {name: values[name] for name in MEAN_TOKENS}


def fit(data: dict[str, Any], rows: list[dict[str, Any]], tries: int, seed: int = 0) -> dict[str, float]:
    """Random search on the mean absolute log error, every group weighing the same, plus the priors."""
    chance = random.Random(seed)

    def cost(values: dict[str, float]) -> float:
        means = with_rates(values)
        groups: dict[str, list[float]] = {}
        for row in rows:
            predicted, measured = predict(row, data, means)
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


def cross_validate(data: dict[str, Any], tries: int) -> dict[str, list[tuple[float, float]]]:
    """Each group predicted with rates fitted on the other groups alone."""
    calibrating = [row for row in data["rows"] if row["calibrates"]]
    result = {}
    for group in dict.fromkeys(row["group"] for row in calibrating):
        means = with_rates(fit(data, [row for row in calibrating if row["group"] != group], tries))
        result[group] = [predict(row, data, means) for row in calibrating if row["group"] == group]
    return result


def table(groups: dict[str, list[tuple[float, float]]], left_out: dict[str, float]) -> list[str]:
    lines = [
        "| group | rows | mean error | worst | Kendall tau | mean error, group left out |",
        "|---|---|---|---|---|---|",
    ]
    for group, pairs in groups.items():
        worst = max((predicted / measured - 1 for predicted, measured in pairs), key=abs)
        out = f"{left_out[group]:.1%}" if group in left_out else "never fitted on"
        tau = "" if len(pairs) < 3 else f"{kendall(pairs):.2f}"
        lines.append(f"| {group} | {len(pairs)} | {mean_error(pairs):.1%} | {worst:+.0%} | {tau} | {out} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="fit again and cross-validate (minutes)")
    parser.add_argument("--tries", type=int, default=2500)
    arguments = parser.parse_args()
    data = prepared()
    groups = by_group(data, MEAN_TOKENS)
    kept = ROOT / "benchmarks" / "speed_left_out.json"
    if arguments.fit:
        values = fit(data, [row for row in data["rows"] if row["calibrates"]], arguments.tries)
        print(json.dumps({name: float(f"{value:.3g}") for name, value in values.items()}, indent=2))
        left_out = {
            group: round(mean_error(pairs), 4) for group, pairs in cross_validate(data, arguments.tries).items()
        }
        kept.write_text(json.dumps(left_out, indent=2) + "\n", encoding="utf-8")
    left_out = json.loads(kept.read_text(encoding="utf-8"))
    page = (ROOT / "benchmarks" / "speed_page.md").read_text(encoding="utf-8")
    pairs = [pair for group, found in groups.items() if group != "litgpt-holdout" for pair in found]
    filled = page.replace("{table}", "\n".join(table(groups, left_out))).replace("{all}", f"{mean_error(pairs):.1%}")
    (ROOT / "docs" / "speed.md").write_text(filled, encoding="utf-8")
    print("\n".join(table(groups, left_out)))


if __name__ == "__main__":
    main()
