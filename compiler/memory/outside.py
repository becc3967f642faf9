"""Memory outside the training step: loading the model, evaluating during the run, and merging the adapter.

Axolotl 0.19 and transformers 5.16, as their code shows (`loaders/model.py`, `core_model_loading.py`, `trainer.py`,
`cli/utils/lora_merge.py`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from compiler.architecture import Architecture
from compiler.memory.fsdp import gathered
from compiler.memory.layer import decoder_layer, layer_key
from compiler.memory.lines import Line, Term, line
from compiler.memory.loss import evaluation_moments
from compiler.memory.phases import base_terms, mask_terms
from compiler.memory.shards import shard
from compiler.memory.static import DTYPE_BYTES, Static, autocasts, static_state
from compiler.memory.tape import Size, Tape, highest
from compiler.values import Part, Setup


def load_line(architecture: Architecture, setup: Setup, cpu: bool) -> Line:
    """The device while the model is loaded: the weights, and the most that is beside them for a moment."""
    static = static_state(architecture, setup)
    rank = shard(architecture, setup, static)
    beside, how = _beside_loading(architecture, setup, static, cpu)
    return line("load", (Term("weights", "as they lie after loading", rank.weights), Term("loading", how, beside)))


def _beside_loading(architecture: Architecture, setup: Setup, static: Static, cpu: bool) -> tuple[float, str]:
    """Axolotl takes embeddings and head to FP32 and, for adapters, back (`_configure_embedding_dtypes`): the old copy
    dies when the new one is there. It does so on the device for quantised weights and for one process a device; one
    process alone, started by `accelerate launch`, loads into RAM. Weights that are quantised while they load arrive
    one by one in two bytes (`core_model_loading.py`: no threads then)."""
    counts, loaded = architecture.parameters, DTYPE_BYTES[setup.weights_dtype]
    quantised = setup.method in ("qlora-4bit", "lora-8bit")
    if setup.fsdp != "none" and not cpu:
        if quantised:  # fsdp2_prepare_model holds the whole state dict until the last shard is cut
            return float(static.weights), "the whole quantised model on every device, until its shards are cut"
        return 2.0 * loaded * counts.embedding, "the largest table, whole, while rank 0 hands out its shards"
    arriving = float(loaded * max(one.weights for one in architecture.linears)) if quantised else 0.0
    if not loads_on_device(setup, cpu) or skips_upcast(architecture, setup) or setup.zero_stage == 3 or loaded == 4:
        return arriving, "one layer's linear in two bytes, while it is quantised" if arriving else ""
    table, head, norms = counts.embedding, counts.head, counts.norm
    if static.embedding_bytes == 4:  # they stay FP32: what is beside them is the old copy of the last one
        return float(2 * (head or table)), "the two-byte copy of a table that goes to FP32"
    # the head's FP32 copy beside its old one, or both tables in FP32 and the first one's two-byte copy
    most = float(max(4 * table, 2 * table + 4 * head, 2 * (table + head + norms) + 2 * table))
    if most > arriving:
        return most, "embeddings and head in FP32 for a moment, while Axolotl casts them there and back"
    return arriving, "one layer's linear in two bytes, while it is quantised"


def loads_on_device(setup: Setup, cpu: bool) -> bool:
    """Whether the model lies on the device while Axolotl casts it: not where one process alone loads 16-bit weights."""
    return cpu or setup.method in ("qlora-4bit", "lora-8bit") or setup.devices > 1


def skips_upcast(architecture: Architecture, setup: Setup) -> bool:
    """Whether the config says `embeddings_skip_upcast`: Axolotl heeds it for 4-bit weights only, and knows the tables
    by the names `embed_tokens` and `lm_head`, which GPT-BigCode does not use."""
    return setup.method == "qlora-4bit" and not setup.train_embeddings and not architecture.learned_positions


def eval_lines(architecture: Architecture, setup: Setup, cpu: bool) -> tuple[Line, ...]:
    """An evaluation batch, for which `tokens` are those of the evaluation: no gradients and no checkpoints, one layer
    at a time, then whole logits. Liger's loss is fused in training only (liger_kernel 0.8, `skip_logits =
    self.training`), so evaluation takes the standard one. Axolotl asks for the loss alone (`prediction_loss_only`
    where there are no metrics), so nothing is gathered over batches."""
    static = static_state(architecture, setup)
    rank = shard(architecture, setup, static)
    base = base_terms(setup, static, rank)
    words = "two-byte copies of FP32 weights that autocast keeps until the model returns"
    copied = _autocast_copies(architecture, setup)
    copies = (Term("autocast_copies", words, copied),) if copied else ()
    stream = float(static.stream_bytes * architecture.hidden_size)
    decoder = (
        *mask_terms(architecture, setup, static.stream_bytes),
        Term("embedding_output", "the first layer's input", 0, stream),
    )
    made, behind = [], 1 if setup.method == "full" else 0  # adapters' own gathers let go of the layer's buffer
    below = line("", (*base, *gathered(architecture, setup, rank, 1, 1 + behind), *copies, *decoder))
    for size, _ in _layer_moments(architecture, setup, static.stream_bytes, cpu):
        made.append(line("eval", (Term("layer", "one layer, forward alone", *size),), below))
    below = line("", (*base, *gathered(architecture, setup, rank, 1, behind)))
    inside = line("", copies, below)
    for size, phase in evaluation_moments(architecture, setup, static.stream_bytes, static.embedding_bytes):
        logits = Term("logits", _EVAL_WORDS[setup.cross_entropy], *size)
        made.append(line("eval", (logits,), below if phase == "returned" else inside))
    return tuple(made)


_WHOLE = "whole logits in two bytes, their FP32 copy and its log-softmax"
_EVAL_WORDS = {
    "standard": _WHOLE,
    "liger": _WHOLE + "; Liger fuses them in training only",
    "chunked": "whole logits in two bytes and accelerate's FP32 copy of them",
    "cut": "no logits: one log-sum-exp a token",
}


def _autocast_copies(architecture: Architecture, setup: Setup) -> float:
    if not autocasts(setup) or setup.fsdp != "none":
        return 0.0
    if setup.method == "full":
        return 2.0 * architecture.parameters.linear if setup.weights_dtype == "fp32" else 0.0
    if setup.lora_kernels:
        return 0.0
    return 2.0 * architecture.lora_parameters(setup.lora_r or 0, setup.lora_targets)


def _layer_moments(
    architecture: Architecture, setup: Setup, stream_width: int, cpu: bool
) -> tuple[tuple[Size, str], ...]:
    key = layer_key(architecture, replace(setup, lora_dropout=0.0), stream_width, cpu)
    return _layer_moments_of(architecture, key)


@lru_cache(maxsize=256)
def _layer_moments_of(architecture: Architecture, key: object) -> tuple[tuple[Size, str], ...]:
    tape = Tape(recording=False, autocast=key.autocast)  # type: ignore[attr-defined]
    held = tape.bytes_(architecture.hidden_size * key.stream_width)  # type: ignore[attr-defined]
    out = decoder_layer(tape, tape.leaf(architecture.hidden_size, key.stream_width), architecture, key)  # type: ignore
    del out, held
    return tuple(highest(tape.seen()))


def merge_part(architecture: Architecture, setup: Setup) -> Part | None:
    """RAM of `axolotl merge-lora` (`merge_method: memory_efficient`, on the CPU); None after full fine-tuning."""
    if setup.method == "full":
        return None
    adapted = architecture.lora_linears(setup.lora_targets)
    merged = 2 * architecture.num_layers * sum(one.weights for one in adapted)
    weights = 2 * architecture.parameters.total
    adapter = 4 * architecture.lora_parameters(setup.lora_r or 0, setup.lora_targets)
    work = 3 * 4 * max(one.weights for one in adapted)
    return Part(
        "merge",
        weights + merged + adapter + work,
        "the weights in two bytes and the merged ones beside them until their file is written (one file is assumed; "
        "several need less), the adapter, and one linear with its change in FP32",
    )


def host_loading(architecture: Architecture, setup: Setup) -> float:
    """RAM that the weights take while they load, where they do not go to the device directly: a single process with
    16-bit weights, and ZeRO-3 and FSDP2, which shard them afterwards."""
    quantised = setup.method in ("qlora-4bit", "lora-8bit")
    if quantised or (setup.devices > 1 and setup.zero_stage != 3 and setup.fsdp == "none"):
        return 0.0
    width = DTYPE_BYTES[setup.weights_dtype]
    counts = architecture.parameters
    if setup.fsdp != "none":  # rank 0 reads the weights; in full fine-tuning the others hold as many zeros
        return float(width * counts.total) / (1 if setup.method == "full" else max(1, setup.devices))
    hump = 0 if width == 4 else 6 * counts.head + (4 * counts.embedding if not counts.head else 0)
    return float(width * counts.total + hump)
