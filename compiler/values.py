"""The values that travel along the straight line: Source -> Recipe -> Case -> Decisions -> Plan -> Artefacts.

All are frozen; every step returns new ones. Sizes are bytes, times are seconds, lengths are tokens.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from compiler.quick import dataclass

if TYPE_CHECKING:  # pydantic is paid for by those who read recipes, not by those who import a value
    from compiler.architecture import Architecture
    from compiler.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Decision:
    """One settled value and why. What the user stated is a Decision too, with `because="asked for in the recipe"`."""

    field: str
    value: Any
    because: str
    rule: str
    """Name of the rule (a function in `compiler/rules/`) that made or checked it."""


@dataclass(frozen=True, slots=True)
class Model:
    """A base model: what `config.json` says, plus what training and chat need to know."""

    id: str
    """As the recipe names it: hub id, local folder, or `embedded/...`."""
    path: str
    """What Axolotl is given as `base_model` (a hub id, or a folder relative to the project root)."""
    architecture: Architecture
    licence: str | None
    chat_template: str | None
    """Axolotl's name for the template (`gemma`, `llama3`, `tokenizer_default` ...); None where the model has none."""
    end_of_turn: tuple[str, ...]
    """Tokens that end an assistant turn; they must be unmasked in the labels."""
    pad_token: str | None
    source: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What this project's own runs on a machine say of the predictions for it (`compiler.calibrate.lean`)."""

    runs: int
    date: str
    """Of the newest."""
    overhead_factor: float
    """Measured over predicted memory beside live tensors: allocator slack; on a CPU the process too."""
    step_factor: float
    """Measured over predicted seconds of a step."""
    remarks: tuple[str, ...] = ()
    """One a run, the newest first: predicted and measured."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One target: a device from `facts/gpus.yaml` or described in the recipe, how many, and what may be used of it."""

    id: str
    name: str
    backend: str
    """`cuda`, `rocm`, `xpu` or `cpu`."""
    count: int
    vram_bytes: int
    """Usable device memory of one device (RAM for `cpu`)."""
    budget_bytes: int
    """What training may take of one device: the recipe's budget, or `vram_bytes`."""
    host_ram_bytes: int | None
    capability: str | None
    """CUDA compute capability as Axolotl writes it (`sm_86`); None elsewhere."""
    bf16: bool
    fp16: bool
    tf32: bool
    flash_attention_2: bool
    bf16_tflops: float | None
    """Dense (no sparsity) BF16 matrix rate with FP32 accumulation, datasheet; FP16 rate where BF16 is missing."""
    bandwidth_gb_s: float | None
    interconnect_gb_s: float | None
    """One-direction GB/s between devices, and between host and device, by PCIe or better."""
    peer_to_peer: bool
    price_usd_per_hour: float | None
    notes: tuple[str, ...] = ()
    """Sentences that plan.md repeats, such as "not verified upstream"."""
    host_gb_s: float | None = None
    """One-direction GB/s between host and device, which offloads pay for; `interconnect_gb_s` is between devices."""
    bf16_native: bool | None = None
    """Whether BF16 is computed in hardware; None where that is not known (a CPU of unknown model)."""
    measured: Measured | None = None
    """None: no run on it was calibrated."""


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What the plan knows of the training rows: measured from the built dataset's lock, or assumed from the recipe."""

    rows: int
    eval_rows: int
    mean_tokens: float
    p99_tokens: int
    max_tokens: int
    measured: bool
    """False: no dataset is built yet, lengths are an assumption that plan.md states."""
    sha256: str | None
    """Digest of train.csv, part of Axolotl's `dataset_prepared_path` so that no stale tokens are used (rule 33)."""
    train_path: str | None
    eval_path: str | None
    eval_max_tokens: int = 0
    """Tokens of the longest held-out row."""
    length_histogram: tuple[tuple[int, int], ...] = ()
    """(upper bound in tokens, rows) ascending: lets the plan say what share of rows a sequence length truncates."""
    eval_sha256: str | None = None
    """Digest of the held-out rows, for the same reason."""


@dataclass(frozen=True, slots=True)
class Case:
    """A recipe joined with the facts of its model and of one target."""

    recipe: Recipe
    target: str
    model: Model
    machine: Machine
    dataset: DatasetFacts


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that decides memory and speed. One point of the search space; `recipe plan --json` prints it."""

    method: str
    """`full`, `lora`, `lora-8bit`, `qlora-4bit`."""
    micro_batch: int
    gradient_accumulation: int
    sequence_len: int
    gradient_checkpointing: str
    """`off`, `on`, `offload`."""
    optimizer: str
    attention: str
    """`eager`, `sdpa`, `flash_attention_2`, `flex_attention`."""
    cross_entropy: str
    """`standard`, `chunked`, `liger`, `cut`."""
    sample_packing: bool
    precision: str
    """`bf16`, `fp16`, `tf32`, `fp32`: what the matrix products compute in."""
    weights_dtype: str
    """`bf16`, `fp16`, `fp32`: of the weights that are not quantised."""
    lora_r: int | None = None
    """None for `full`."""
    lora_alpha: int | None = None
    lora_dropout: float = 0.0
    lora_targets: str | tuple[str, ...] = "all-linear"
    lora_kernels: bool = False
    double_quant: bool = True
    train_embeddings: bool = False
    zero_stage: int = 0
    fsdp: str = "none"
    """PyTorch's FSDP2: `none`, `full_shard` (weights are gathered layer by layer), `shard_grad_op` (gathered weights
    stay from forward to backward)."""
    offload: str = "none"
    """`none`, `optimizer`, `params` (params means optimizer as well)."""
    devices: int = 1

    @property
    def tokens_per_micro_step(self) -> int:
        """Tokens of one device's forward pass at full length."""
        return self.micro_batch * self.sequence_len

    @property
    def effective_batch(self) -> int:
        return self.micro_batch * self.gradient_accumulation * self.devices


@dataclass(frozen=True, slots=True)
class Part:
    """A named share of a total, in bytes, with its formula in words."""

    name: str
    bytes: int
    how: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Predicted peak of one device at the phase where it is largest; `total_bytes` is the sum of the parts, no more."""

    parts: tuple[Part, ...]
    peak_phase: str
    """`load`, `gather`, `loss`, `layer`, `backward`, `optimizer`, `eval`."""
    phases: tuple[tuple[str, int], ...]
    """(phase, live tensor bytes) of every phase, for `recipe verify`."""
    host_parts: tuple[Part, ...] = ()
    """Host RAM, for offloads and for loading."""
    resident_bytes: int = 0
    """Of the total, what lies still from the first step to the last: the weights. Their size is known exactly."""

    @property
    def total_bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def host_bytes(self) -> int:
        return sum(part.bytes for part in self.host_parts)


@dataclass(frozen=True, slots=True)
class Speed:
    tokens_per_second: float
    """Useful (not padding) tokens per second, all devices together."""
    seconds_per_step: float
    """One optimizer step: all micro-steps of one effective batch."""
    hours: float
    """The whole run."""
    steps: int
    cost_usd: float | None = None
    """None where the facts hold no rent price."""
    parts: tuple[tuple[str, float, str], ...] = ()
    """(name, seconds of one optimizer step, how)."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A setup that lost, and why."""

    setup: Setup
    total_bytes: int
    tokens_per_second: float
    why_not: str
    field: str | None = None
    """The field in which it differs from the chosen setup, where it is a single one."""


@dataclass(frozen=True, slots=True)
class WayOut:
    """Something that would make a plan fit which does not, with its numbers in the text."""

    text: str
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the emitters see. If an emitter needs something that is not here, the plan is missing a decision."""

    case: Case
    fits: bool
    verdict: str
    """`fits`, `uncertain` or `does not fit`."""
    probability: float
    """That the run stays within the budget, from the calibrated error band."""
    margin_bytes: int
    """Kept free below the budget; printed on its own, not part of the prediction."""
    setup: Setup
    memory: Memory
    speed: Speed
    decisions: tuple[Decision, ...]
    alternatives: tuple[Alternative, ...]
    ways_out: tuple[WayOut, ...] = ()
    """Only when nothing fits."""
    frontier: tuple[Alternative, ...] = ()
    """Setups of which none is both smaller and faster than another: VRAM against time."""
    more_memory: Alternative | None = None
    """The choice that the next 2 GiB would allow; `why_not` says what they buy. None when the plan does not fit."""
    warnings: tuple[str, ...] = field(default=())

    def decision(self, name: str) -> Decision:
        for decision in self.decisions:
            if decision.field == name:
                return decision
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file to be written: path relative to `generated/`, and its text. Equal input gives equal bytes."""

    path: str
    text: str
