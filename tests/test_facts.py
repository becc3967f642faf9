"""The catalogues: complete, sourced, consistent with what they are used for."""

import re

import pytest
import yaml

from compiler.architecture import from_config
from compiler.facts import GIB, MIB, Catalogue, gpus, load_yaml, models, rates
from compiler.facts import _text as text_of  # the raw files, to compare with what the catalogues read

DATE = re.compile(r"20\d\d-\d\d-\d\d")
DEVICES_BY_BACKEND = {"cuda": 40, "rocm": 3, "xpu": 4, "cpu": 4}


@pytest.mark.parametrize("name", ["gpus.yaml", "models.yaml"])
def test_entries_parsed_one_by_one_equal_the_whole_file(name):
    whole = yaml.safe_load(text_of(name))
    catalogue = Catalogue(text_of(name), lambda key, values: values)
    assert list(catalogue) == list(whole)
    assert dict(catalogue) == whole


def test_there_are_enough_devices_of_every_backend():
    for backend, least in DEVICES_BY_BACKEND.items():
        assert sum(gpu.backend == backend for gpu in gpus().values()) >= least, backend
    assert len(models()) >= 40


@pytest.mark.parametrize("gpu", gpus().values(), ids=lambda gpu: gpu.id)
def test_device(gpu):
    assert gpu.source and gpu.usable_how and DATE.fullmatch(gpu.as_of)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", gpu.id)
    assert (gpu.price_usd_per_hour is None) == (gpu.price_source is None)
    assert (gpu.capability is not None) == (gpu.backend == "cuda")
    if gpu.backend == "cpu":
        assert gpu.vram_bytes is None and gpu.bf16 and not gpu.fp16  # no desktop CPU trains in FP16
        return
    # usable memory is below what is on the board, never less than ECC on GDDR6 leaves (0.91)
    assert 0.90 * gpu.vram_gib * (1e9 if gpu.vram_gib in (141, 180) else GIB) <= gpu.vram_bytes <= gpu.vram_gib * GIB
    assert gpu.bandwidth_gb_s and gpu.host_gb_s and gpu.device_link_gb_s >= gpu.host_gb_s
    if gpu.backend == "cuda":
        number = int(gpu.capability.removeprefix("sm_"))
        ampere = number >= 80
        # BF16, TF32 and FlashAttention 2 came with Ampere
        assert (gpu.bf16, gpu.tf32, gpu.flash_attention_2, gpu.bf16_tflops is not None) == (ampere,) * 4
        assert gpu.fp16 and gpu.fp16_tflops
        assert not (gpu.peer_to_peer and "GeForce" in gpu.name)


@pytest.mark.parametrize(
    ("gpu", "usable_gib", "tflops", "bandwidth"),
    [
        ("rtx-3090-ti", (23.5, 23.8), 80.0, 1008),  # GA102 whitepaper: FP32 accumulation runs at half rate on GeForce
        ("rtx-a6000", (46.5, 47.6), 154.8, 768),  # the same chip at full rate
        ("rtx-4090", (23.5, 23.7), 165.2, 1008),
        ("rtx-5090", (31.3, 31.5), 209.5, 1792),
        ("a100-80gb", (79.1, 79.4), 312.0, 2039),
        ("h100-sxm", (79.1, 79.4), 989.0, 3350),
        ("arc-b580", (11.3, 12.0), 116.5, 456),
    ],
)
def test_figures_of_the_cards_that_recipes_name(gpu, usable_gib, tflops, bandwidth):
    facts = gpus()[gpu]
    assert usable_gib[0] <= facts.vram_bytes / GIB <= usable_gib[1]
    assert (facts.bf16_tflops, facts.bandwidth_gb_s) == (tflops, bandwidth)


def test_usable_memory_of_a_t4_is_the_measured_one():
    assert gpus()["t4"].vram_bytes == 14912 * MIB
    assert gpus()["t4"].bf16_tflops is None


@pytest.mark.parametrize("model", models().values(), ids=lambda model: model.id)
def test_model(model):
    architecture = from_config(model.config)
    assert architecture.parameters.total == model.parameters <= 15e9
    assert model.source and model.licence and DATE.fullmatch(model.as_of)
    assert (
        model.pad_token is None or model.pad_token not in model.end_of_turn
    )  # padding would mask the end of an answer
    assert bool(model.chat_template) == bool(model.end_of_turn)
    assert model.architecture == architecture


@pytest.mark.e2e
def test_chat_templates_are_names_that_axolotl_knows():
    enums = pytest.importorskip("axolotl.utils.schemas.enums")
    known = {template.value for template in enums.ChatTemplate}
    assert {model.chat_template for model in models().values()} - {None} <= known


def test_an_unknown_id_is_not_guessed_but_near_ones_are_told():
    with pytest.raises(KeyError):
        gpus()["rtx 3090 ti"]
    assert gpus().near("rtx 3090ti")[0] == "rtx-3090-ti"
    assert models().near("google/gemma2-2b-it")[0] == "google/gemma-2-2b-it"
    assert gpus().near("zzzz") == []


def test_an_id_that_stands_twice_is_refused():
    with pytest.raises(AssertionError, match="twice"):
        Catalogue("a:\n  x: 1\na:\n  x: 2\n", lambda key, values: values)


def test_an_unknown_key_of_an_entry_is_refused():
    block = text_of("gpus.yaml").replace("  backend: cuda", "  backand: cuda", 1)
    first = next(iter(gpus()))
    make = gpus()._make
    with pytest.raises(TypeError, match="backand"):
        Catalogue(block, make)[first]


def test_every_rate_has_unit_and_source():
    entries = load_yaml(text_of("rates.yaml"))
    for name, entry in entries.items():
        assert set(entry) == {"unit", "value", "source"} and entry["unit"] and entry["source"], name
    assert rates()["matmul_share"]["default"] < 1
    known = {gpu.id for gpu in gpus().values()} | {gpu.capability for gpu in gpus().values()} | {"default"}
    assert set(rates()["matmul_share"]) <= known
