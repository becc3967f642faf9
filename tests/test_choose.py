"""The choice: exhaustive, within its rules, right on the cases people have."""

import re
from dataclasses import replace
from functools import lru_cache
from itertools import product

import pytest
import yaml
from planner_cases import CPU, DEV, GEMMA, GIB, LLAMA_1B, LLAMA_8B, PHI, QWEN, SMALL, case, measured, with_budget

from compiler.cells import MAX_MICRO_BATCH
from compiler.choose import PLAIN, machine_for, why_not
from compiler.compare import shortfall
from compiler.constraints import conflict, dominated
from compiler.memory import predict_memory, verdict
from compiler.memory.model import _moments
from compiler.plan import plan, settled_search
from compiler.problems import WorldProblem
from compiler.rules.adapter import kernels_obstacle
from compiler.rules.schedule import effective_batch_for
from compiler.speed import predict_speed
from compiler.values import Setup

CASES = [
    case(),
    case(effective_batch=16),
    case(target={**DEV, "count": 2}),
    case(target=CPU),
    case(target={"gpu": "t4"}),
    case(model=LLAMA_1B, target={**DEV, "count": 2}, method="full"),
    case(model=SMALL, target={"gpu": "arc-b580"}),
]


def everything(found):
    """Every setup of a case's space, built from nothing but the options: (setup, order, bytes, tokens per second)."""
    space, machine, model = settled_search(found), found.machine, found.model.architecture
    template, names = space.points[0].setup, tuple(space.domains)
    rate = lru_cache(maxsize=None)(lambda setup: predict_speed(model, setup, machine, found.dataset).tokens_per_second)
    for ranks in product(*(range(len(one.options)) for one in space.domains.values())):
        values = {name: space.domains[name].options[rank] for name, rank in zip(names, ranks, strict=True)}
        if dominated(space.draft, values):
            continue
        kernels = values["method"] != "full" and kernels_obstacle(space.draft, values["method"]) is None
        rows = effective_batch_for(space.draft, values["sequence_len"], values["sample_packing"]) // machine.count
        for size in range(1, max(1, min(rows, MAX_MICRO_BATCH)) + 1):
            if rows and rows % size:
                continue
            batch = {"micro_batch": size, "gradient_accumulation": max(1, rows // size), "lora_kernels": kernels}
            setup = replace(template, **values, **batch)
            if conflict(setup):
                continue
            plain = {name: same[values[name]] for name, same in PLAIN.items() if values[name] in same}
            memory = predict_memory(model, setup, machine)
            yield setup, (*ranks, size), memory, min(rate(setup), rate(replace(setup, **plain)))


@pytest.mark.parametrize("found", CASES, ids=lambda one: f"{one.model.id}-{one.machine.id}-{one.machine.count}")
def test_the_search_answers_as_trying_everything_does(found):
    """The choice, the best with each option, and the choice within other budgets; and the bytes of every point."""
    space, tried = settled_search(found), list(everything(found))
    assert {point.setup: point.peak_bytes for point in space.points} == {
        setup: memory.total_bytes for setup, _, memory, _ in tried
    }
    for point, bound in zip(space.points, space.bounds(space.points), strict=True):
        assert space.tokens_per_second(point.setup) <= bound
    machine = found.machine
    budgets = [machine.budget_bytes, machine.vram_bytes, machine.budget_bytes // 2, 2 * machine.vram_bytes]
    options = [{}, *({name: one} for name, domain in space.domains.items() for one in domain.options)]
    for budget, fixed in [(budget, {}) for budget in budgets] + [(budgets[0], one) for one in options]:
        fitting = [
            (-rate, order, setup)
            for setup, order, memory, rate in tried
            if all(getattr(setup, name) == value for name, value in fixed.items())
            and verdict(memory, replace(machine_for(machine, setup), budget_bytes=budget))[0] == "fits"
        ]
        best = min(fitting, key=lambda one: one[:2])[2] if fitting else None
        assert space.best(budget, **fixed) == best, (budget, fixed)
        assert best is None or space.tokens_per_second(best) == -min(fitting)[0]
    for fixed in options:
        same = [one for one in tried if all(getattr(one[0], name) == value for name, value in fixed.items())]
        least = min(same, key=lambda one: (one[2].total_bytes, one[1]))[0] if same else None
        assert space.smallest(**fixed) == least, fixed


def test_a_plan_predicts_few_of_its_points():
    """What keeps a plan quick, counted: a setup's moments are derived once for all optimizers and micro-batches, and
    a speed once for all settings that only save memory."""
    found = case(effective_batch=16)
    _moments.cache_clear()
    space = settled_search(found)
    assert space.best() is not None and len(space.points) >= 360
    assert len(space.rates) <= len(space.points) / 4
    assert _moments.cache_info().misses <= len(space.points) / 12
    settled_search(with_budget(found, 6 * GIB)).best()
    assert _moments.cache_info().misses <= len(space.points) / 12, "moments do not depend on the card's budget"


def test_a_space_holds_no_setup_that_breaks_a_constraint():
    for found in CASES:
        assert all(conflict(point.setup) is None for point in settled_search(found).points)


@pytest.mark.parametrize("asked", [1, 6, 16, 48])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_effective_batch_asked_for_is_kept_exactly(asked, count):
    setup = plan(case(target={**DEV, "count": count}, effective_batch=asked * count)).setup
    assert setup.micro_batch * setup.gradient_accumulation * setup.devices == asked * count


def test_an_effective_batch_that_devices_do_not_divide_is_said_aloud():
    found = plan(case(target={**DEV, "count": 2}, effective_batch=5))
    assert found.setup.effective_batch in (4, 6)
    assert any("effective batch" in one for one in found.warnings)


def test_gemma_2_never_trains_with_sdpa_and_takes_flash_attention_where_it_runs():
    # sdpa drops the soft-capping of attention scores without a word (transformers #32865)
    for target in (DEV, {"gpu": "t4"}, {"gpu": "arc-b580"}, CPU, {"gpu": "h100-sxm"}):
        found = plan(case(target=target))
        assert found.setup.attention == ("flash_attention_2" if found.case.machine.flash_attention_2 else "eager")
        assert "sdpa" not in settled_search(found.case).domains["attention"].options


def test_256k_logits_decide_on_8_gib():
    # 14 bytes x 256,000 = 3.6 MB a token: the standard loss of 2,048 tokens alone takes 6.8 GiB
    found = plan(case(GEMMA, DEV, sequence_len=2048, effective_batch=16))
    assert found.fits and found.setup.cross_entropy == "liger"
    assert not plan(case(GEMMA, DEV, sequence_len=2048, cross_entropy="standard")).fits
    assert found.memory.total_bytes + found.margin_bytes <= 8 * GIB


def test_two_cards_share_the_batch():
    found = plan(case(target={**DEV, "count": 2}, effective_batch=16))
    assert found.fits and found.setup.devices == 2 and found.setup.effective_batch == 16


def test_arc_is_conservative_and_says_so():
    found = plan(case(target={"gpu": "arc-b580"}))
    assert found.fits and any("not verified upstream" in one for one in found.warnings)
    setup = found.setup
    assert (setup.method, setup.cross_entropy, setup.lora_kernels) == ("lora", "standard", False)
    assert (setup.zero_stage, setup.sample_packing) == (0, False)


def test_a_cpu_trains_in_bf16_with_nothing_that_needs_a_gpu():
    for model in (GEMMA, QWEN):
        found = plan(case(model, CPU))
        setup = found.setup
        assert found.fits and setup.precision == "bf16"
        assert setup.attention in ("sdpa", "eager") and setup.cross_entropy in ("standard", "chunked")
        assert setup.gradient_checkpointing != "offload" and not setup.lora_kernels and not setup.sample_packing
        assert setup.zero_stage == 0 and setup.optimizer == "adamw_torch_fused"
        because = found.decision("precision").because
        assert "Zen 4" in because and "Sapphire Rapids" in because and "14900K" in because


def test_a_t4_has_no_bf16_and_no_flash_attention():
    for model in (GEMMA, QWEN):
        setup = plan(case(model, {"gpu": "t4"})).setup
        assert setup.precision == "fp16" and setup.attention in ("sdpa", "eager")


@pytest.mark.parametrize("gpu", ["rtx-4090", "a100-40gb", "h100-sxm"])
def test_bf16_lora_before_4_bit_where_there_is_room(gpu):
    found = plan(case(target={"gpu": gpu}))
    assert found.fits and found.setup.method == "lora" and found.setup.gradient_checkpointing == "off"


@pytest.mark.parametrize(
    ("model", "budget"),
    [(LLAMA_8B, 12), (LLAMA_8B, 16), ("mistralai/Mistral-7B-Instruct-v0.3", 12),
     ("mistralai/Mistral-7B-Instruct-v0.3", 15)],
)  # fmt: skip
def test_7_and_8_billion_take_4_bit_where_16_bit_cannot_fit(model, budget):
    target = {"gpu": "rtx-3090-ti", "vram_budget": f"{budget} GiB", "host_ram": "64 GiB"}
    found = plan(case(model, target, effective_batch=16))
    assert found.fits and found.setup.method == "qlora-4bit"
    assert not plan(case(model, target, effective_batch=16, method="lora")).fits


def test_where_4_bit_is_taken_although_16_bit_fits_it_is_faster_and_said_aloud():
    seen = 0
    for gib in range(5, 14):
        found = plan(with_budget(case(), gib * GIB))
        space = settled_search(found.case)
        wider = space.best(method="lora")
        if found.setup.method == "qlora-4bit" and wider:
            seen += 1
            assert space.tokens_per_second(found.setup) > space.tokens_per_second(wider)
            assert any("16-bit ones fit" in one for one in found.warnings)
    assert seen, "no budget lies in the band; the test tests nothing"


def test_full_fine_tuning_only_when_asked_and_sharded_by_need():
    assert plan(case(LLAMA_1B, {"gpu": "h100-sxm"})).setup.method != "full"
    two = {"gpu": "rtx-3090-ti", "count": 2, "vram_budget": "8 GiB", "host_ram": "64 GiB"}
    found = plan(case(LLAMA_1B, two, method="full", optimizer="adamw_torch_fused"))
    assert found.setup.zero_stage >= 2, "1.2 B parameters with gradients and 32-bit AdamW do not fit 8 GiB unsharded"
    assert found.fits and found.decision("deepspeed").value["stage"] == found.setup.zero_stage
    roomy = plan(case(LLAMA_1B, {"gpu": "h100-sxm", "count": 2}, method="full"))
    assert roomy.fits and roomy.decision("deepspeed").value is None, "no DeepSpeed where nothing asks for it"


def test_4_bit_weights_are_never_sharded_by_zero_3():
    found = plan(case(target={**DEV, "count": 2}, method="qlora-4bit", zero_stage=3))
    assert not found.fits and "ZeRO-3" in found.warnings[0]
    for one in (case(target={**DEV, "count": 4}), case(LLAMA_8B, {**DEV, "count": 2})):
        assert all(point.setup.zero_stage < 3 for point in settled_search(one).points)


def test_one_device_without_offload_has_no_deepspeed():
    for one in (case(), case(QWEN), case(target=CPU), case(SMALL, method="full")):
        found = plan(one)
        assert found.decision("deepspeed").value is None or found.setup.offload != "none"


def test_sequence_length_drops_at_most_one_percent_unasked():
    lengths = measured(10_000, t128=9_700, t256=200, t512=95, t4096=5)
    found = plan(case(QWEN, dataset=lengths))
    assert found.setup.sequence_len in (256, 4096) and not any("longer than" in one for one in found.warnings)
    pinned = plan(case(QWEN, dataset=lengths, sequence_len=128))
    assert pinned.setup.sequence_len == 128 and any("3 % of the rows" in one for one in pinned.warnings)


def test_rows_are_packed_unasked_only_where_no_batch_is_asked_for():
    short = measured(10_000, t128=9_000, t1024=1_000)
    assert not plan(case(QWEN, dataset=short, effective_batch=16)).setup.sample_packing
    free = plan(case(QWEN, dataset=short))
    assert free.setup.sample_packing and free.setup.attention == "flash_attention_2"
    assert not plan(case(QWEN, {"gpu": "t4"}, dataset=short)).setup.sample_packing


def test_phi_3_has_no_lora_kernels_because_its_projections_are_fused():
    assert not plan(case(PHI, {"gpu": "rtx-4090"})).setup.lora_kernels
    assert plan(case(QWEN, {"gpu": "rtx-4090"})).setup.lora_kernels


def test_everything_pinned_is_predicted_even_when_it_does_not_fit():
    setup = {
        "method": "lora", "micro_batch": 8, "gradient_accumulation": 2, "sequence_len": 2048,
        "gradient_checkpointing": "off", "optimizer": "adamw_torch", "attention": "sdpa", "cross_entropy": "standard",
        "sample_packing": False, "lora_r": 32, "lora_alpha": 16, "lora_targets": "attention", "lora_kernels": False,
        "zero_stage": 0, "offload": "none", "weights_dtype": "bf16", "precision": "bf16", "double_quant": False,
        "train_embeddings": False, "lora_dropout": 0.05,
    }  # fmt: skip
    found = plan(case(GEMMA, DEV, **setup))
    assert {name: getattr(found.setup, name) for name in setup} == setup
    assert not found.fits and found.verdict == "does not fit"
    assert any("cannot run" in one for one in found.warnings), "sdpa drops Gemma's soft-capping"
    assert found.memory.total_bytes > 8 * GIB


def test_nothing_fits_says_by_how_much_and_what_would_help():
    found = plan(case(LLAMA_8B, {"gpu": "rtx-3090-ti", "vram_budget": "4 GiB", "host_ram": "64 GiB"}))
    assert not found.fits and found.setup.method == "qlora-4bit"
    text = "\n".join(way.text for way in found.ways_out)
    assert "`sequence_len: " in text and "`vram_budget`" in text and "`base_model: " in text
    assert all(way.total_bytes > 0 for way in found.ways_out)


@pytest.mark.parametrize(
    ("model", "target", "pinned"),
    [
        (LLAMA_1B, DEV, {"method": "full", "zero_stage": 0, "offload": "none", "optimizer": "adamw_torch_fused"}),
        (GEMMA, {"gpu": "arc-b580", "vram_budget": "4 GiB", "host_ram": "16 GiB"}, {}),
        (GEMMA, {"gpu": "rtx-3060", "vram_budget": "6 GiB"}, {"method": "lora", "micro_batch": 16}),
        (LLAMA_1B, {"gpu": "t4"}, {"method": "full"}),
        (SMALL, {"gpu": "rtx-3060", "vram_budget": "1.5 GiB"}, {"sequence_len": 4096, "cross_entropy": "standard"}),
    ],
)  # fmt: skip
def test_a_way_out_that_is_said_to_fit_fits_when_the_recipe_states_it(model, target, pinned):
    ways = [way.text for way in plan(case(model, target, **pinned)).ways_out if "fits (" in way.text]
    assert ways
    for text in ways:
        stated = dict(re.findall(r"`(\w+): ([^`]*)`", text))
        changed = {name: yaml.safe_load(stated.pop(name)) for name in ("host_ram", "count") if name in stated}
        budget = re.match(r"a budget \(`vram_budget`\) of (\S+ GiB)", text)
        machine = target | changed | ({"vram_budget": budget[1]} if budget else {})
        if text.startswith("a device"):
            continue  # another card, which no recipe of this one can state
        dropped = re.findall(r"`(\w+)`", text) if text.startswith("without") else []
        wanted = {name: value for name, value in pinned.items() if name not in dropped}
        base = stated.pop("base_model", model)
        assert plan(case(base, machine, **wanted | {name: _typed(value) for name, value in stated.items()})).fits, text


def _typed(text: str) -> object:
    return int(text) if text.isdigit() else text


def test_what_lacks_host_ram_is_not_sent_for_a_bigger_budget():
    found = plan(case(LLAMA_1B, {"gpu": "t4"}, method="full"))
    need = found.memory.total_bytes + found.margin_bytes
    assert not found.fits and need < found.case.machine.budget_bytes, "the card has room, the host has not"
    assert "of host RAM, more than the 16.00 GiB that are counted on" in shortfall(found)
    assert any(way.text.startswith("`host_ram: ") for way in found.ways_out)


def test_pins_that_exclude_one_another_are_told_apart():
    found = plan(case(PHI, {"gpu": "rtx-2060"}, sample_packing=True))  # no FlashAttention 2 before Ampere
    assert not found.fits and "without the pinned `sample_packing`: " in found.ways_out[0].text


def test_a_way_out_never_breaks_a_constraint():
    # quantised weights and ZeRO-3 do not go together, however much they would save
    found = plan(case(LLAMA_8B, {"gpu": "rtx-3090-ti", "vram_budget": "6 GiB", "host_ram": "64 GiB"}))
    assert found.ways_out and not any("offload: params" in way.text for way in found.ways_out)


def test_offloads_count_host_ram():
    two = {"gpu": "rtx-3090-ti", "count": 2, "vram_budget": "8 GiB", "host_ram": "7 GiB"}
    found = plan(case(LLAMA_1B, two, method="full", zero_stage=3, offload="params"))
    assert found.memory.host_bytes > 7 * GIB and not found.fits


def test_alternatives_name_what_lost_with_numbers():
    found = plan(case(effective_batch=16))
    by_field = {}
    for one in found.alternatives:
        by_field.setdefault(one.field, []).append(one)
        assert one.why_not and one.total_bytes > 0
    searched = set(settled_search(found.case).domains) | {"micro_batch"}
    assert set(by_field) == searched
    assert all(one.setup != found.setup for one in found.alternatives)


def test_the_frontier_trades_memory_for_time():
    found = plan(case())
    sizes = [one.total_bytes for one in found.frontier]
    speeds = [one.tokens_per_second for one in found.frontier]
    assert len(sizes) > 2 and sizes == sorted(sizes, reverse=True) and speeds == sorted(speeds, reverse=True)


def test_more_memory_says_what_it_buys():
    small = plan(with_budget(case(), 6 * GIB))
    assert small.more_memory and "faster" in small.more_memory.why_not
    large = plan(case(SMALL, {"gpu": "h100-sxm"}))
    assert large.more_memory and "no speed" in large.more_memory.why_not


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("attention", "sdpa", "soft"), ("method", "full", "full fine-tuning"), ("micro_batch", "16", "GiB"),
        ("cross_entropy", "standard", "tokens/s"), ("lora_r", "256", "tokens/s"), ("zero_stage", "3", "ZeRO"),
        ("gradient_checkpointing", "off", "tokens/s"), ("learning_rate", "0.001", "the recipe may ask for it"),
    ],
)  # fmt: skip
def test_why_not_names_the_constraint_with_numbers(field, value, word):
    text = why_not(case(effective_batch=16), field, value)
    assert field in text and (word in text or ("caps attention" in text and word == "soft")), text


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("lora_targets", "[nope]", "`recipe check` refuses it: "),
        ("weights_dtype", "fp16", "cannot run as asked: weights in FP16 do not go with BF16"),
        ("weights_dtype", "fp32", "no config can be made of it: Axolotl loads weights as bf16"),
        ("zero_stage", "3", "cannot run as asked: DeepSpeed on one device"),
        ("learning_rate", "0.001", "chosen:     0.0002: LoRA on 2.6 B parameters"),
        ("gradient_accumulation", "8", "effective batch of"),
        ("optimizer", "auto", "leaves it to the planner, which has adamw"),
    ],
)
def test_why_not_says_what_keeps_a_value_out_that_has_room(field, value, said):
    assert said in why_not(case(), field, value)


@pytest.mark.parametrize("pinned", [{"early_stopping": 3}, {"eval_every": 50}])
def test_a_setup_has_room_for_the_evaluation_that_the_recipe_asks_for(pinned):
    """Evaluation holds whole logits of Gemma 2: 16-bit LoRA trains in 8 GiB and cannot evaluate there."""
    known, speeds = measured(t512=10_000), []
    for gib in (6, 7, 8, 9):
        target = {"gpu": "rtx-4090", "vram_budget": f"{gib} GiB"}
        found = plan(case(GEMMA, target, dataset=known, gradient_checkpointing="on", **pinned))
        assert found.fits, gib
        assert dict(found.memory.phases)["eval"] <= found.memory.total_bytes <= gib * GIB
        speeds.append(found.speed.tokens_per_second)
    assert speeds == sorted(speeds)


@pytest.mark.parametrize("pinned", [{}, {"micro_batch": 16}, {"gradient_accumulation": 8}])
@pytest.mark.parametrize("count", [1, 8])
def test_packing_unasked_never_doubles_the_rows_of_a_step(pinned, count):
    found = case(SMALL, {"gpu": "a100-40gb", "count": count}, dataset=measured(t128=5000, t512=5000), **pinned)
    done = plan(found)
    setup = done.setup
    rows = setup.effective_batch * (setup.sequence_len / found.dataset.mean_tokens if setup.sample_packing else 1)
    least = count * pinned.get("micro_batch", 1) * pinned.get("gradient_accumulation", 1)
    assert rows <= 2 * max(16, least)
    asked = plan(case(SMALL, {"gpu": "a100-40gb"}, sample_packing=True, micro_batch=16))
    assert asked.setup.sample_packing and asked.setup.micro_batch == 16


@pytest.mark.parametrize("offload", ["optimizer", "params"])
def test_an_offload_asked_for_brings_the_stage_that_it_needs(offload):
    found = plan(case(GEMMA, {"gpu": "rtx-4090", "host_ram": "64 GiB"}, offload=offload))
    assert found.fits and found.setup.zero_stage == {"optimizer": 2, "params": 3}[offload]


def test_why_not_of_what_is_no_field_or_value_is_a_clear_message():
    with pytest.raises(WorldProblem, match="did you mean `micro_batch`"):
        why_not(case(), "micro_batches", 1)
    with pytest.raises(WorldProblem, match="cannot be"):
        why_not(case(), "method", "magic")


def test_the_verdict_of_the_search_is_that_of_the_memory_model():
    found = plan(case())
    assert verdict(found.memory, found.case.machine)[0] == "fits"
    assert isinstance(found.setup, Setup)
