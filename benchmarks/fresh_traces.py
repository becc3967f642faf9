"""Hold the closed forms against setups that nobody has looked at: drawn by seed from the whole space of pins, traced,
scored.

python benchmarks/fresh_traces.py SEED COUNT OUT     draw, trace what OUT has not yet, score (5 to 20 s a case)
python benchmarks/fresh_traces.py --score OUT        score what OUT holds, with today's forms
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compiler.architecture import Architecture, config_dict
from compiler.facts import models
from compiler.families import FAMILIES
from compiler.memory import live_bytes
from compiler.values import Plan, Setup

MOST_PARAMETERS = 9e9
CUDA = {"name": "large", "backend": "cuda", "vram": "4000 GiB", "bf16_tflops": 300, "bandwidth_gb_s": 2000}
CPU = {"gpu": "cpu", "ram_budget": "4000 GiB"}
OPTIMIZERS = (
    "adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "lion_8bit", "sgd",
)  # fmt: skip


def draw(rng: random.Random) -> tuple[str | dict[str, Any], dict[str, Any], bool]:
    """(model id or config, pins of `training:`, on a CPU) of one setup; not every draw can run."""
    cpu = rng.random() < 0.08
    family = rng.choice(list(FAMILIES))
    known = [
        name
        for name, one in models().items()
        if one.architecture.model_type == family and one.architecture.parameters.total < MOST_PARAMETERS
    ]
    model: str | dict[str, Any] = rng.choice(known) if rng.random() < 0.5 else invented(rng, family)
    method = rng.choice(("full", "lora", "lora", "lora-8bit", "qlora-4bit", "qlora-4bit"))
    pins: dict[str, Any] = {
        "method": method,
        "micro_batch": rng.choice((1, 1, 2, 3, 4, 5, 8, 12, 16)),
        "gradient_accumulation": rng.choice((1, 1, 2, 4)),
        "sequence_len": round(math.exp(rng.uniform(math.log(128), math.log(8192)))),
        "gradient_checkpointing": rng.choice(("off", "on", "on", "offload")),
        "optimizer": rng.choice(OPTIMIZERS),
        "attention": rng.choice(("eager", "sdpa", "flash_attention_2", "flex_attention")),
        "cross_entropy": rng.choice(("standard", "chunked", "liger", "cut")),
        "sample_packing": False,
        "precision": rng.choice(("bf16",) * 6 + ("fp16", "fp16", "fp32", "tf32")),
        "zero_stage": 0,
        "offload": "none",
    }
    if rng.random() < 0.25:
        pins["weights_dtype"] = rng.choice(("bf16", "fp16", "fp32"))
    if method != "full":
        pins |= adapter(rng, method, family)
    return model, pins, cpu


def adapter(rng: random.Random, method: str, family: str) -> dict[str, Any]:
    """Pins of what is trained with adapters."""
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    if FAMILIES[family].fused_qkv or not FAMILIES[family].gated_mlp:
        names = ["o_proj"] if family == "phi3" else ["c_attn"] if family == "gpt_bigcode" else ["q_proj", "v_proj"]
    kind, some = rng.random(), rng.sample(names, rng.randint(1, len(names)))
    kernels = rng.random() < 0.3 and method != "lora-8bit"
    pins = {
        "lora_r": round(math.exp(rng.uniform(0, math.log(256)))),
        "lora_targets": "all-linear" if kind < 0.6 else "attention" if kind < 0.8 else some,
        "lora_dropout": 0.05 if rng.random() < 0.25 and not kernels else 0.0,
        "lora_kernels": kernels,
        "train_embeddings": rng.random() < 0.15,
    }
    return pins | ({"double_quant": rng.random() < 0.7} if method == "qlora-4bit" else {})


def invented(rng: random.Random, family: str) -> dict[str, Any]:
    """A small config.json of a family, in no proportions that a published model has."""
    heads, head_dim = rng.choice((4, 6, 8, 12, 16)), rng.choice((32, 64, 80, 96, 128))
    kv_heads = rng.choice([count for count in (1, 2, 4, 6, 8, 12, 16) if heads % count == 0])
    if family == "gpt_bigcode":
        kv_heads = rng.choice((1, heads))
    hidden = heads * head_dim if family in ("gpt_bigcode", "starcoder2", "phi3") else 64 * rng.randint(6, 40)
    made = Architecture(
        model_type=family,
        vocab_size=rng.randint(5_000, 280_000),
        hidden_size=hidden,
        intermediate_size=8 * rng.randint(hidden // 8, hidden // 2),
        num_layers=rng.randint(2, 10),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=rng.random() < 0.5,
        max_position_embeddings=rng.choice((2048, 8192, 32768)) if family == "gpt_bigcode" else 32768,
        attn_logit_softcapping=FAMILIES[family].attention_softcap,
        final_logit_softcapping=FAMILIES[family].final_softcap,
        logits_scaling=8.0 if family == "granite" else None,
        attention_bias=rng.random() < 0.3,
        mlp_bias=rng.random() < 0.3,
    )
    config = config_dict(made)
    if family == "starcoder2":
        config["use_bias"] = rng.random() < 0.7
    window = rng.choice((None, 256, 1024, 4096))
    if FAMILIES[family].window or FAMILIES[family].window_needs_flag or family in ("phi3", "starcoder2"):
        config["sliding_window"] = window or (4096 if FAMILIES[family].full_attention_every else None)
        if FAMILIES[family].window_needs_flag and window:
            config |= {"use_sliding_window": True, "max_window_layers": rng.choice((0, 1))}
    return config


def planned(model: str | dict[str, Any], pins: dict[str, Any], cpu: bool) -> Plan | str:
    """The plan of a draw as the command would make it, or why the front door refuses it."""
    from compiler.check import load_recipe
    from compiler.plan import plan_recipe
    from compiler.problems import ProblemError

    with tempfile.TemporaryDirectory() as folder:
        base = model
        if isinstance(model, dict):
            base = folder
            (Path(folder) / "config.json").write_text(json.dumps(model))
        recipe = {
            "name": "fresh",
            "base_model": base,
            "training": pins,
            "targets": {"here": CPU if cpu else {"gpu": CUDA}},
        }
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(recipe))
        try:
            plan = plan_recipe(load_recipe(str(path)))[0]
        except ProblemError as error:
            return str(error)
    broken = [one for one in plan.warnings if "cannot run" in one]
    return broken[0] if broken else plan


def shown(setup: Setup, model: str | dict[str, Any]) -> str:
    name = model if isinstance(model, str) else f"{model['model_type']} invented"
    usual = {"sample_packing": False, "zero_stage": 0, "offload": "none", "devices": 1, "lora_alpha": None}
    values = (f"{value}" for name, value in asdict(setup).items() if name not in usual)
    return f"{name}: {' '.join(values)}"


def trace(out: Path, seed: int, count: int) -> None:
    """Draw until `count` setups pass the front door; append the trace of each that `out` does not hold yet."""
    rng, done = random.Random(seed), 0
    held = {row["number"] for row in rows(out)}
    number = 0
    while done < count:
        model, pins, cpu = draw(rng)
        number += 1
        plan = planned(model, pins, cpu)
        if isinstance(plan, str):
            continue
        done += 1
        if number in held:
            continue
        architecture = plan.case.model.architecture
        row = {"seed": seed, "number": number, "model": model, "cpu": cpu, "setup": asdict(plan.setup)}
        row["config"] = model if isinstance(model, dict) else config_dict(architecture)
        row |= traced(row)
        with out.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        print(done, said(row), flush=True)


def again(source: Path, out: Path, words: str) -> None:
    """Trace those rows of `source` again that hold one of some words."""
    for text in source.read_text().splitlines():
        row = json.loads(text)
        if any(one in text for one in words.split(",")):
            row = {key: row[key] for key in ("seed", "number", "model", "cpu", "setup", "config")} | traced(row)
        with out.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")


def traced(row: dict[str, Any]) -> dict[str, Any]:
    from compiler.trace import trace_step

    try:
        found = trace_step(row["config"], setup_of(row), on_cpu=row["cpu"], steady=True)
    except Exception as error:  # what the tracer refuses is a result too
        return {"refused": f"{type(error).__name__}: {error}"[:300]}
    return {name: one.total_bytes for name, one in found.phases} | {"kinds": dict(found.peak.kinds)}


def setup_of(row: dict[str, Any]) -> Setup:
    values = dict(row["setup"])
    targets = values["lora_targets"]
    return Setup(**{**values, "lora_targets": tuple(targets) if isinstance(targets, list) else targets})


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def error_of(row: dict[str, Any]) -> float | None:
    if "refused" in row:
        return None
    from compiler.architecture import from_config

    planned_bytes = live_bytes(from_config(row["config"]), setup_of(row), row["cpu"])
    return planned_bytes / max(row["forward"], row["backward"], row["optimizer"]) - 1


def said(row: dict[str, Any]) -> str:
    error = error_of(row)
    text = row["refused"] if error is None else f"{error:+.3%}"
    peak = "" if error is None else max(("forward", "backward", "optimizer"), key=lambda name: row[name])
    return f"{text} {peak} {'cpu ' if row['cpu'] else ''}{shown(Setup(**row['setup']), row['model'])}"


def score(out: Path) -> None:
    found = rows(out)
    errors = [one for one in map(error_of, found) if one is not None]
    for row in sorted(found, key=lambda row: -abs(error_of(row) or 9)):
        if abs(error_of(row) or 9) > 0.005:
            print(row["number"], said(row))
    sizes = [abs(one) for one in errors]
    print(
        f"{len(errors)} traced, {len(found) - len(errors)} refused by the tracer; mean {sum(sizes) / len(sizes):.3%}, "
        f"lowest {min(errors):+.2%}, highest {max(errors):+.2%}, above 0.5 %: {sum(one > 0.005 for one in sizes)}"
    )


if __name__ == "__main__":
    if sys.argv[1] == "--score":
        score(Path(sys.argv[2]))
    elif sys.argv[1] == "--again":
        again(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
        score(Path(sys.argv[3]))
    else:
        trace(Path(sys.argv[3]), int(sys.argv[1]), int(sys.argv[2]))
        score(Path(sys.argv[3]))
