"""How near the memory prediction is to traces and to published measurements. Writes docs/accuracy.md.

python benchmarks/accuracy.py                 score, and write the page
python benchmarks/accuracy.py --retrace 5     trace that many of the recorded cases again and compare (about 10 s each)
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overheads import SLACK_INTRODUCTION, band_words, slack_words
from published import load_setup, published
from scores import table

from compiler.architecture import Architecture, from_config
from compiler.memory import live_bytes
from compiler.memory.overhead import CUBLAS_BYTES
from compiler.stacks import STACKS
from compiler.values import Setup

ROOT = Path(__file__).resolve().parent.parent
TRACES = ROOT / "tests" / "data" / "traces.jsonl"
FSDP_TRACES = ROOT / "tests" / "data" / "fsdp_traces.jsonl"
FSDP_ROWS = ROOT / "tests" / "data" / "fsdp_rows.jsonl"
ZERO = ROOT / "benchmarks" / "accuracy_zero.md"
"""Two real processes of DeepSpeed, which the tests run again."""
PAGE = ROOT / "docs" / "accuracy.md"
MIB = 2**20
GROUPS = ("development", "drawn", "fresh", "fourth", "fifth", "hold-out")


@dataclass(frozen=True, slots=True)
class Traced:
    """A recorded trace: what was run and the peak of each phase, in bytes."""

    group: str
    """`development` (looked at while the closed forms were written), `hold-out` (traced afterwards), `drawn` and
    `fresh`, `fourth`, `fifth` (by `benchmarks/fresh_traces.py`, the second set to the fifth)."""
    architecture: Architecture
    setup: Setup
    forward: int
    backward: int
    optimizer: int
    cpu: bool = False

    @property
    def peak(self) -> int:
        return max(self.forward, self.backward, self.optimizer)

    @property
    def error(self) -> float:
        """(predicted - traced) / traced, of live tensors."""
        return live_bytes(self.architecture, self.setup, self.cpu) / self.peak - 1


def traces() -> Iterator[Traced]:
    """The recorded traces: the first line holds the model configurations, each other line one case."""
    with TRACES.open(encoding="utf-8") as lines:
        models = {name: from_config(config) for name, config in json.loads(next(lines))["configs"].items()}
        for line in lines:
            row = json.loads(line)
            yield Traced(
                row["group"],
                models[row["model"]],
                load_setup(row["setup"]),
                row["forward"],
                row["backward"],
                row["optimizer"],
                row.get("cpu", False),
            )


def by(cases: Iterable[Traced], key: str) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = defaultdict(list)
    for case in cases:
        name = case.architecture.model_type if key == "family" else str(getattr(case.setup, key))
        groups[name].append(case.error)
    return groups


def sharded() -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Errors of the closed forms under FSDP: against traces of FSDP2 by method, against published peaks of FSDP1."""
    from compiler.facts import models

    def predicted(row: dict[str, Any]) -> float:
        return live_bytes(models()[row["model"]].architecture, load_setup(row["setup"]))

    traced: dict[str, list[float]] = defaultdict(list)
    measured: dict[str, list[float]] = defaultdict(list)
    for row in map(json.loads, FSDP_TRACES.read_text(encoding="utf-8").splitlines()):
        for name in (row["setup"]["method"], "all"):
            traced[name].append(predicted(row) / (row["peak_mib"] * MIB) - 1)
    for row in map(json.loads, FSDP_ROWS.read_text(encoding="utf-8").splitlines()):
        name = f"{row['group']}, {row['model'].rpartition('/')[2]}"
        measured[name].append((predicted(row) + CUBLAS_BYTES) / row["allocated"] - 1)
    return traced, measured


FSDP_INTRODUCTION = """## FSDP

The referee is torch's own `fully_shard` with Axolotl's wrapping, run on tensors without contents over a process group
without processes: groups, gathers, frees and reductions are torch's. Two real processes over gloo with real tensors
hold the same bytes as the trace, to the byte (`tests/test_fsdp.py`: LoRA 126,817,792 and full 295,901,184 of a small
model, uneven rows included). Traces below are of whole models, 2 to 4 ranks, both strategies.
"""

FSDP1_INTRODUCTION = """Published peaks are FSDP1's, of other stacks; nothing is set for them. Full fine-tuning of
Mistral 7B, whose peak is the optimizer's step, agrees; where the peak is the loss or a layer the stacks differ from
Axolotl: the losses of older transformers hold up to 14 bytes a logit where today's holds 10, adapters compute in FP32
without autocast, GPT-BigCode's loss never copied its logits, and FSDP1 gathers into flat buffers that FSDP2 does not
have. So these rows hold the shards, not the gathers.
"""


INTRODUCTION = """# How true the memory numbers are

Made by `python benchmarks/accuracy.py`; a test fails when the closed forms score worse than this page says. An error is
(predicted - true) / true; mean and median are of its size.

The planner's closed forms are not fitted to traces: one decoder layer, the loss and the optimizer are run on
symbolic sizes with torch's rules of what is saved and when it dies (`compiler/memory/tape.py`). The referee is
`compiler/trace`: the real Hugging Face class, PEFT, the loss and the optimizer on tensors without contents, every
storage followed from birth to death.
"""

STACKS_INTRODUCTION = """### Check a row yourself

Pin what the row states under `training:` of a recipe, with a target of the same card, and name the stack:

    name: row
    base_model: bigcode/gpt_bigcode-santacoder
    targets: {a100: {gpu: a100-80gb}}
    training:
      {method: qlora-4bit, micro_batch: 4, gradient_accumulation: 1, sequence_len: 2048, gradient_checkpointing: "on",
       optimizer: adamw_torch, attention: flash_attention_2, cross_entropy: standard, precision: bf16,
       weights_dtype: bf16, lora_r: 16, lora_alpha: 16, lora_dropout: 0.1, lora_targets: [c_attn], lora_kernels: false}

`recipe verify row.yaml --stack fms-accelerated` prints the peaks of allocated, reserved and device memory; the row says
9,147,162,112 bytes allocated. The stacks, each with what it rests on:

| stack | what it does |
|---|---|
"""

RESERVED_INTRODUCTION = """## The tracer's allocator replay against published reserved memory

The births and deaths of loading and of two steps, through a model of PyTorch's caching allocator. Loading counts: with
16-bit weights nothing lives beside them and sdpa rows come out within 1 %, while quantised weights pass through the
device in two bytes and leave those segments behind. transformers 5 reserves one block for all weights first; that made
it worse and is not replayed. The largest misses are not understood: one bf16 LoRA row on Windows (-18 %, its step
reserves 0.7 GiB that no tensor explains), one eager row (+15 %). All these stacks leave the allocator's settings as
they are; `axolotl` is replayed with `expandable_segments:True`, for which no reading is published.

"""
PROCESS_INTRODUCTION = """## The replay and the context against process and nvidia-smi readings

Reserved memory as above, plus a CUDA context: 141 MiB for a T4 (process less reserved, in all readings), 540 MiB for an
A100. The second comes from fms: in six Mistral rows without fused kernels nvidia-smi lies 1,718 to 1,734 MiB above the
replay, whatever the batch, and an earlier version of the same file (commit 0aab2c6) has for the same setups and the
same allocated peaks readings 1,161 to 1,165 MiB lower. What the later run had on the card beside training is not
known; it stays in the errors of `fms-main`. Full fine-tuning of a 7B model comes so near to the card's 80 GB that torch
gives segments back, at moments that the replay does not meet.

"""
FUSED_LOSS = """
FOAK's fused loss over whole logits (`-foak`, but not Liger's) reserves more than the replay says, by one more block of
the logits that it reads: with 16-bit LoRA of Mistral 4 bytes a logit less five hidden states at batches of 4, 8 and 16,
to 8 MiB; with SantaCoder, whose loss reads two bytes, 2. `max_memory_allocated` leaves no room for such a tensor beside
the others, FOAK's code makes none, more steps leave no more behind, and gradients that autograd adds in place change
nothing: the cause is not found. Granite's six rows, where the logits are divided first, do not have the block. So for
these stacks it is added as observed, except with scaled logits and where the card has no room for it. No plan uses
this loss. The same rows:

"""
UNUSED = """### Published rows that are not in the table, and why

- fms on 2 and 4 devices: FSDP1, whose flat parameters and precision differ from the FSDP2 that is planned and traced.
- fms GPTQ: not a method of this project. Its rows equal the 4-bit ones but for 29 MiB of weights, at all batches.
- fms Mixtral and Llama 2 70B: mixtures of experts are not modelled; 70B is beyond what is planned for.
- litgpt, torchtune, Qwen 1, Swift with Qwen 1: model code of their own, which the tracer does not run.
- PEFT's MetaMath comparison, the torchtune README, Swift: reserved memory at lengths that are not published.
- Axolotl's example configs ("about 7.8 GiB"): rounded figures, mostly of models that are not planned (several
  modalities, mixtures, ReLU^2); a GPU, package versions and lengths are not stated.
- LLaMA-Factory's wiki, fsdp_qlora, PEFT's and Hugging Face's blog figures: whole gigabytes of unknown meaning.

"""
LIMITS = """## Where the step is not the peak

- Evaluation: Liger's loss is fused in training only (`skip_logits = self.training`). In evaluation it makes whole
logits, 10 bytes each at the highest moment, against 14 of the standard loss in training. With Liger it would be the
peak almost everywhere; the plan therefore evaluates rows no longer than the longest held-out one, as few at once as
stay within the step's peak, and shorter ones where that breaks the budget (`eval_sequence_len`). With the standard and
the chunked loss a step is always the peak.
- Loading: Axolotl takes embeddings and head to FP32 and back. Where that happens on the device (8-bit weights, several
devices) it exceeds a step of small batches: Gemma 2 2B with 16-bit LoRA on two cards has 7.07 GiB of live tensors
then, and 6.5 GiB in a step. 4-bit plans say `embeddings_skip_upcast`. What loading took beyond the step is shown
as the allocator's, which keeps it.

## What is not modelled

- Mixture of experts, several modalities, DoRA, torch.compile of the model; they are refused or not offered.
- Padding masks: rows are taken as full. A padded batch under `sdpa` makes a mask that flash attention does not need,
and one for each row where a window's mask is counted once.
- The outlier columns of LLM.int8 (about 0.1 %), and 4-bit kernels for fewer than 1,536 rows: weights are always
dequantised.
- Cut cross-entropy's own FP32 accumulators; its package is not among the traced ones.
- ZeRO without checkpointing in stage 3 beyond what `zero.Init` makes of linears; FSDP's offload is arithmetic.
- LoRA dropout and LayerNorm are traced as CUDA runs them (a mask of one byte an element; FP32 under autocast); the
CPU differs.
- Merging is arithmetic from Axolotl's code. Loading and evaluation are traced (`recipe verify` shows both; the forms
are within 0.5 % of small shapes, FP32 with grouped keys under `sdpa` -3.6 %); none of the three is held against a
measurement.
- XPU and ROCm contexts are assumed, not measured, and so are CUDA contexts of other cards than T4 and A100. A setup's
own allocator slack differs from the usual one; that is what the printed margin is for.
- What the allocator holds in evaluation, under ZeRO and under FSDP follows the same three sizes; the replays are of
training on one device.
- The published stacks are not Axolotl. They test the tracer; that it speaks for Axolotl rests on Axolotl's code,
which it follows.
"""


def page() -> str:
    cases = list(traces())
    made = published()
    parts = [INTRODUCTION, "## Closed forms against traces (live tensors, Axolotl's stack)\n"]
    parts.append(
        table(
            "cases",
            {group: [case.error for case in cases if case.group == group] for group in GROUPS},
        )
        + "\n"
    )
    parts.append(
        "Development cases were looked at while the forms were written; hold-out cases were traced afterwards,\n"
        "with other models, lengths, ranks and batches, and with families and losses that the first set has not.\n"
        "So the hold-out is not untouched. Four things were mended after it had shown them: the copies that the\n"
        "chunked loss makes above a micro-batch of 1; the moment at which accelerate copies the returned logits to\n"
        "FP32; GPT-BigCode's mask buffer among the weights; and that buffer among the gradients of full fine-tuning.\n"
        "\n"
        "Drawn and fresh setups are random over all families, half of them with shapes that no published model has,\n"
        "and over all pins (`benchmarks/fresh_traces.py`): precisions, dtypes, targets, dropout, trained embeddings,\n"
        "kernels, losses, optimizers, 128 to 8,192 tokens, 1 to 16 rows. Each set was scored before anything was\n"
        "changed for it, which is the honest figure: the first (126 setups, not kept) mean 8.0 %, worst +72 %, most\n"
        "of it without autocast, under FP16 and with trained embeddings; the second (130, `drawn` but for one\n"
        "that was traced with other targets) mean 0.26 %, worst +6.3 %; the third (109, `fresh`) mean 0.43 %, worst\n"
        "-15.2 % (copies of FP32 weights beside the loss, forgotten in one place) and -7.4 % (GPT-BigCode in 4\n"
        "bits); the fourth (90, `fourth`) mean 0.04 %, worst +0.58 %; the fifth (80, `fifth`) mean 0.07 %, worst\n"
        "-2.78 % (a GPT-BigCode). The table scores the forms as they are now, mended after each. On another tracer,\n"
        "written by others and kept outside this project, 65 setups over its own options had mean 0.10 % and worst\n"
        "-1.80 % before anything was changed, and 13 drawn afterwards mean 0.11 %, worst -0.49 %; its dropout and\n"
        "LayerNorm are a CPU's, so that setups with either are left out of these two.\n"
    )
    last = [case for case in cases if case.group == "hold-out"]
    parts += [
        table(f"hold-out by {key.replace('_', ' ')}", by(last, key)) + "\n"
        for key in ("family", "method", "attention", "cross_entropy", "gradient_checkpointing", "optimizer")
    ]
    parts.append(
        "## The tracer against published `max_memory_allocated`\n\n"
        "The trace plus two cuBLAS workspaces (16.25 MiB); no number is fitted. What a stack does is read from its\n"
        "code, but where code and versions left a choice, it was made on these rows, for a whole stack at once:\n"
        "canifinetune without autocast.\n"
    )
    parts.append(table("rows", made.allocated) + "\n")
    parts.append(STACKS_INTRODUCTION + "\n".join(f"| `{one.name}` | {one.evidence} |" for one in STACKS) + "\n")
    parts.append(UNUSED)
    parts.append(RESERVED_INTRODUCTION + table("rows", made.reserved) + "\n")
    parts.append(PROCESS_INTRODUCTION + table("rows", made.process) + "\n" + FUSED_LOSS)
    parts.append(table("rows with FOAK's fused loss", made.fused_loss) + "\n")
    parts.append(SLACK_INTRODUCTION + slack_words())
    parts.append("Against published reserved memory:\n\n" + table("rows", made.planned_reserved) + "\n")
    words = "Against published process and nvidia-smi readings, without FOAK's fused loss:\n\n"
    parts.append(words + table("rows", made.planned_process) + "\n")
    parts.append(band_words())
    traced, measured = sharded()
    parts.append(FSDP_INTRODUCTION + "\n" + table("FSDP2 traces", traced) + "\n")
    parts.append(FSDP1_INTRODUCTION + "\n" + table("FSDP1 rows, allocated", measured) + "\n")
    parts.append(ZERO.read_text(encoding="utf-8"))
    return "\n".join([*parts, LIMITS])


def retrace(count: int) -> None:
    from compiler.trace import trace_step

    cases = list(traces())
    for case in cases[:: max(1, len(cases) // count)][:count]:
        traced = trace_step(case.architecture, case.setup, steady=True).total_bytes
        print(
            f"{case.architecture.model_type:12} {case.setup.method:11} recorded {case.peak / MIB:9.1f} MiB, "
            f"again {traced / MIB:9.1f} MiB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--retrace", type=int, metavar="N")
    arguments = parser.parse_args()
    if arguments.retrace:
        retrace(arguments.retrace)
        return
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
