"""The counted bytes of a layer against traces of the real model classes (benchmarks/speed_traffic.py)."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.facts import models
from compiler.traffic import AXOLOTL, Stack, loss_bytes

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "speed_traffic.py"
SPEC = importlib.util.spec_from_file_location("speed_traffic", SCRIPT)
traffic = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(traffic)


@pytest.mark.parametrize(
    "model, method, within",
    [
        ("meta-llama/Llama-3.2-1B", "lora", 0.02),
        ("google/gemma-2-2b-it", "qlora", 0.02),
        ("microsoft/Phi-3-mini-4k-instruct", "full", 0.06),
        ("bigcode/starcoder2-3b", "qlora", 0.06),
    ],
)
def test_counted_bytes_are_those_of_a_traced_step(model, method, within):
    architecture, setup = models()[model].architecture, replace(traffic.SETUP, **traffic.METHODS[method])
    for traced, counted in zip(
        traffic.traced_layer(architecture, setup), traffic.counted_layer(architecture, setup), strict=True
    ):
        assert counted == pytest.approx(traced, rel=within)


def layer(model: str, stack: Stack = AXOLOTL, **changes) -> float:
    return sum(traffic.counted_layer(models()[model].architecture, replace(traffic.SETUP, **changes), stack))


def test_autocast_widens_layers_with_layernorm_only():
    code, mistral = "bigcode/gpt_bigcode-santacoder", "mistralai/Mistral-7B-v0.1"
    quantised = {"method": "qlora-4bit", "lora_r": 16, "lora_targets": "attention"}
    assert layer(code, **quantised) > 3 * layer(code, Stack(autocast=False), **quantised | {"method": "full"})
    assert layer(mistral, **quantised) < 1.2 * layer(mistral, Stack(autocast=False), **quantised | {"method": "full"})
    assert layer(mistral, Stack(fp32_norms=True), **quantised) > 1.5 * layer(mistral, **quantised)
    assert layer(mistral, weights_dtype="fp32") > layer(mistral)


def test_losses_in_the_order_of_what_they_keep():
    gemma = models()["google/gemma-2-2b-it"].architecture
    names = ("standard", "chunked", "liger", "cut")
    moved = [loss_bytes(gemma, replace(traffic.SETUP, cross_entropy=name)) for name in names]
    assert moved == sorted(moved, reverse=True) and moved[-1] == 0
    in_one_kernel = loss_bytes(gemma, traffic.SETUP, Stack(fused_loss=True))
    assert moved[0] - in_one_kernel == 12 * gemma.vocab_size
