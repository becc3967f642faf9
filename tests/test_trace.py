"""The referee: its allocator, its storages, and a few live traces against the closed forms."""

import re
from dataclasses import replace

import pytest

from compiler.architecture import from_config
from compiler.values import Machine, Setup

GIB, MIB = 2**30, 2**20
SETUP = Setup(
    "qlora-4bit", 2, 1, 512, "on", "adamw_torch_fused", "flash_attention_2", "standard", False, "bf16", "bf16", 8, 16
)
CUDA = Machine(
    "a100", "A100", "cuda", 1, 80 * GIB, 80 * GIB, None, "sm_80", True, True, True, True, 312, 2039, 32, True, None
)
TINY = from_config(
    {
        "model_type": "llama",
        "vocab_size": 4096,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 2048,
    }
)
GEMMA = from_config(
    {
        "model_type": "gemma2",
        "vocab_size": 8192,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "sliding_window": 4096,
        "max_position_embeddings": 8192,
    }
)
BIG_CODE = from_config(
    {
        "model_type": "gpt_bigcode",
        "vocab_size": 8000,
        "n_embd": 512,
        "n_inner": 2048,
        "n_layer": 3,
        "n_head": 8,
        "n_positions": 2048,
        "attn_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
    }
)


def test_allocator_keeps_what_is_freed_and_splits_large_blocks():
    from compiler.trace.allocator import replay

    reserved, allocated = replay([(1, 30 * MIB), (1, -30 * MIB), (2, 12 * MIB), (3, 12 * MIB)])
    assert (reserved, allocated) == (30 * MIB, 30 * MIB)
    assert replay([(1, 512)]) == (2 * MIB, 512)
    assert replay([(1, 5 * MIB)])[0] == 20 * MIB


def test_allocator_gives_free_segments_back_when_memory_runs_out():
    from compiler.trace.allocator import replay

    events = [(1, 40 * MIB), (1, -40 * MIB), (2, 60 * MIB)]
    assert replay(events)[0] == 100 * MIB
    assert replay(events, capacity_bytes=64 * MIB)[0] == 60 * MIB


def test_an_expandable_segment_grows_where_plain_ones_are_left_over():
    from compiler.trace.allocator import replay, replay_expandable

    events = [(1, 40 * MIB), (1, -40 * MIB), (2, 60 * MIB)]
    assert replay(events)[0] == 100 * MIB
    assert replay_expandable(events) == (60 * MIB, 60 * MIB)
    # the free end is kept for what fits nowhere else; neighbours merge, whatever they were
    events = [(1, 20 * MIB), (2, 20 * MIB), (3, 20 * MIB), (1, -20 * MIB), (3, -20 * MIB), (4, 15 * MIB), (5, 20 * MIB)]
    assert replay_expandable(events)[0] == 60 * MIB
    events += [(2, -20 * MIB), (4, -15 * MIB), (6, 40 * MIB)]
    assert replay_expandable(events)[0] == 60 * MIB
    assert replay_expandable([(1, 512), (2, 5 * MIB)]) == (22 * MIB, 5 * MIB + 512)


def test_foaks_loss_reserves_a_block_more_than_is_replayed():
    pytest.importorskip("torch")
    from compiler.trace.foak import more_reserved_bytes
    from compiler.trace.versions import VERSIONS

    mistral = {"model_type": "mistral", "vocab_size": 32000}
    tokens = SETUP.micro_batch * SETUP.sequence_len
    setup = replace(SETUP, cross_entropy="standard")
    assert more_reserved_bytes(mistral, setup, VERSIONS["4.45"]) == 4 * 32000 * tokens
    assert more_reserved_bytes(mistral | {"model_type": "gpt_bigcode"}, setup, VERSIONS["4.48"]) == 2 * 32000 * tokens
    assert not more_reserved_bytes(mistral, replace(setup, cross_entropy="liger"), VERSIONS["4.45"])
    assert not more_reserved_bytes(mistral | {"logits_scaling": 8.0}, setup, VERSIONS["4.45"])


def test_every_stack_says_what_it_rests_on():
    from compiler.stacks import STACKS

    assert all(stack.evidence for stack in STACKS)
    assert len({stack.name for stack in STACKS}) == len(STACKS)


CASES = {
    "qlora": (TINY, SETUP),
    "lora, dropout, chunked": (TINY, replace(SETUP, method="lora", lora_dropout=0.05, cross_entropy="chunked")),
    "full, liger, foreach": (
        TINY,
        replace(SETUP, method="full", lora_r=None, cross_entropy="liger", optimizer="adamw_torch"),
    ),
    "gemma 2, eager, off": (GEMMA, replace(SETUP, attention="eager", gradient_checkpointing="off")),
    "no autocast": (TINY, replace(SETUP, method="lora", precision="tf32", weights_dtype="fp32", attention="eager")),
    "fp16, 8 bits, off": (
        TINY,
        replace(SETUP, method="lora-8bit", precision="fp16", weights_dtype="fp16", gradient_checkpointing="off"),
    ),
    "trained embeddings, tied, several steps": (
        TINY,
        replace(SETUP, method="lora", train_embeddings=True, gradient_accumulation=2, cross_entropy="chunked"),
    ),
    # without the models' own dropouts 6 % less, and without the top of c_fc's adapter, which other moments equal, 9 %
    "gpt-bigcode, dropouts, eager, off": (
        BIG_CODE,
        replace(SETUP, method="lora", attention="eager", gradient_checkpointing="off", cross_entropy="cut"),
    ),
    "gpt-bigcode, one adapter": (BIG_CODE, replace(SETUP, method="lora", cross_entropy="cut", lora_targets=("c_fc",))),
    "gemma 2, kernels, cut": (
        GEMMA,
        replace(SETUP, lora_kernels=True, cross_entropy="cut", gradient_checkpointing="offload"),
    ),
}


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore")  # of the packages that a trace imports: none of them is ours to mend
@pytest.mark.parametrize("name", CASES)
def test_closed_forms_against_a_live_trace(name):
    pytest.importorskip("axolotl")
    from compiler.trace.compare import compare

    architecture, setup = CASES[name]
    result = compare(architecture, setup, CUDA)
    assert abs(result.error) < 0.03
    for row in result.parts:
        if row.name in ("weights", "lora_weights", "optimizer_states"):
            assert row.planned == pytest.approx(row.traced, rel=0.03)


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loss", ["liger", "chunked", "cut"])
def test_evaluation_and_loading_against_traces(loss):
    """Liger does not fuse its loss in evaluation; both are of the model's own class, with no gradients."""
    pytest.importorskip("axolotl")
    from compiler.trace.compare import compare

    for method in ("qlora-4bit", "lora"):
        setup = replace(SETUP, method=method, cross_entropy=loss)
        rows = {row.name: row for row in compare(GEMMA, setup, CUDA, eval_batch=3, eval_length=300).phases}
        assert ("loading" in rows) == (method == "qlora-4bit"), "16-bit weights of one process load into RAM"
        for name in rows:
            assert rows[name].planned == pytest.approx(rows[name].traced, rel=0.01), name


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore")
def test_what_axolotl_cannot_run_is_refused_in_the_planners_words():
    pytest.importorskip("axolotl")
    from compiler.constraints import conflict
    from compiler.families import kernels_cannot
    from compiler.trace import trace_step

    olmo = replace(TINY, model_type="olmo2", qk_norm=True, qk_norm_per_head=False)
    mixed = replace(SETUP, weights_dtype="fp16")
    for architecture, setup, words in (
        (olmo, replace(SETUP, lora_kernels=True), kernels_cannot("olmo2")),
        (TINY, mixed, conflict(mixed)[1]),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            trace_step(architecture, setup)


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore")
def test_one_steady_step_peaks_like_two():
    pytest.importorskip("axolotl")
    from compiler.trace import trace_step

    two, one = (trace_step(TINY, SETUP, steady=steady) for steady in (False, True))
    assert two.phases[1][1].total_bytes == one.phases[1][1].total_bytes
    assert two.allocated_bytes <= two.reserved_bytes


ROW = """name: row
base_model: HuggingFaceTB/SmolLM2-135M
targets: {t4: {gpu: t4}}
training:
  {method: lora, micro_batch: 2, gradient_accumulation: 1, sequence_len: 512, gradient_checkpointing: "on",
   optimizer: adamw_torch, attention: sdpa, cross_entropy: standard, precision: fp16, weights_dtype: fp16, lora_r: 32,
   lora_alpha: 64, lora_dropout: 0.0, lora_targets: attention, lora_kernels: false, sample_packing: false}
"""


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore")
def test_verify_says_what_a_published_row_says(tmp_path):
    pytest.importorskip("axolotl")
    from click.testing import CliRunner

    from compiler.commands.verify import command

    (tmp_path / "row.yaml").write_text(ROW)
    said = CliRunner().invoke(command, [str(tmp_path / "row.yaml"), "--stack", "peft-loop"])
    assert said.exit_code == 0, said.output
    sizes = {
        line.split()[0]: int(line.split()[2].replace(",", "")) for line in said.output.splitlines() if "  max_" in line
    }
    # fitcheck-t4-sweep-2026-09-15-a3051937 of tests/data/memory_rows.jsonl
    assert sizes["allocated"] == pytest.approx(1_076_803_072, rel=0.015)
    assert sizes["reserved"] == pytest.approx(1_121_976_320, rel=0.05)
