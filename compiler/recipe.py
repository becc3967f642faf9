"""What a person types: the recipe. Strict: unknown keys and wrong types are errors (`compiler.check` says where).

The string below each field is its documentation: meaning, unit, what omission means. `recipe explain`, `recipe schema`
and docs/recipe.md are made from it. `auto` means that the planner decides and says why in plan.md; every other value is
taken as it is.
"""

from typing import Annotated, Any, Literal

from compiler.units import parse_size
from dataset_builder.spec import Dataset
from dataset_builder.strict import BeforeValidator, Field, Strict, WithJsonSchema

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["intel-arc-expert"])]
"""Becomes a folder name: letters, digits, `.`, `_` and `-`, at most 64, the first a letter or a digit."""
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "type": "string",
            "format": "size",
            "pattern": r"^[0-9.]+ ?([KMGT]i?)?B$",
            "examples": ["8 GiB", "8GB", "8192 MiB"],
        }
    ),
]
"""Bytes, typed as `8 GiB` (2^30), `8GB` (10^9) or `8192 MiB`; a bare number is refused."""

Optimizer = Literal[
    "adamw_torch_fused",
    "adamw_torch",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "lion_8bit",
    "sgd",
]
"""Names as Axolotl's `optimizer`; those whose memory the planner knows."""
Scheduler = Literal[
    "cosine", "linear", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial", "inverse_sqrt", "rex"
]  # fmt: skip
"""Names as Axolotl's `lr_scheduler`; those that need no further arguments."""
Cadence = Auto | Literal["epoch", "never"] | Annotated[int, Field(ge=1)]


class CustomGpu(Strict):
    """A card that is not in the catalogue, described in place."""

    name: Name
    """What plan.md calls it."""
    backend: Literal["cuda", "rocm", "xpu", "cpu"]
    """Which PyTorch drives it."""
    vram: Size
    """Usable memory of one card (RAM for `cpu`)."""
    bf16_tflops: float = Field(gt=0)
    """Dense BF16 matrix rate with FP32 accumulation, TFLOP/s, from the data sheet (the FP16 rate where `bf16` is
    false)."""
    bandwidth_gb_s: float = Field(gt=0)
    """Memory bandwidth, GB/s."""
    bf16: bool = True
    """Whether it computes BF16 natively."""
    capability: str | None = Field(default=None, pattern=r"^sm_[0-9]{2,3}a?$", examples=["sm_86"])
    """CUDA compute capability such as `sm_86`; omitted for cuda: taken for `sm_80`, the lowest that knows BF16
    (`sm_75` without BF16)."""
    interconnect_gb_s: float | None = Field(default=None, gt=0)
    """One direction, GB/s, between cards and between card and host; omitted: 16 (PCIe 3.0 x16)."""
    peer_to_peer: bool = False
    """Whether cards copy to each other directly (NVLink, or PCIe without the GeForce limit)."""
    price_usd_per_hour: float | None = Field(default=None, ge=0)
    """Rent of one card; omitted: plan.md names no cost."""


class Target(Strict):
    """A machine the recipe is compiled for."""

    gpu: str | CustomGpu
    """Id from `recipe explain gpus` such as `rtx-3090-ti`, `cpu`, or a mapping that describes a card."""
    count: int = Field(default=1, ge=1, le=1024)
    """How many of them; omitted: 1."""
    vram_budget: Size | None = None
    """What training may take of each card, such as `8 GiB`; omitted: all that is usable."""
    ram_budget: Size | None = None
    """What training may take of the RAM; for `gpu: cpu` only. Omitted: three quarters of
    `host_ram`; a CPU target needs one of the two."""
    host_ram: Size | None = None
    """RAM of the machine, needed to plan offloads; omitted: unknown, so only small offloads are chosen."""


class Training(Strict):
    """How to train. Everything is optional; a stated value is taken as it is and only checked."""

    method: Auto | Literal["full", "lora", "lora-8bit", "qlora-4bit"] = "auto"
    """`full` trains every weight; `lora` adapters on bf16 weights; `lora-8bit` on int8 weights; `qlora-4bit` on NF4
    weights. `auto`: the best that fits."""
    micro_batch: Auto | Count = "auto"
    """Rows of one forward pass of one device. `auto`: the fastest that fits."""
    gradient_accumulation: Auto | Count = "auto"
    """Forward passes added up before an optimizer step. `auto`: effective_batch / (micro_batch x devices)."""
    effective_batch: Auto | Count = "auto"
    """Rows of one optimizer step over all devices: micro_batch x gradient_accumulation x devices. `auto`: follows the
    size of the dataset."""
    sequence_len: Auto | Annotated[int, Field(ge=16, le=1_048_576)] = "auto"
    """Longest row in tokens; longer rows are cut or dropped. `auto`: holds at least 99 % of the rows."""
    sample_packing: Auto | bool = "auto"
    """Put several short rows into one sequence. `auto`: where attention keeps them apart and it saves time."""
    epochs: Auto | Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = "auto"
    """Passes over the training rows. `auto`: 3, or what max_steps says."""
    max_steps: Count | None = None
    """Optimizer steps after which training ends; omitted: epochs decide."""
    learning_rate: Auto | Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = "auto"
    """Peak learning rate. `auto`: follows method, rank and model size."""
    lr_scheduler: Auto | Scheduler = "auto"
    """How the learning rate falls after warm-up. `auto`: cosine."""
    warmup: Auto | Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = "auto"
    """Optimizer steps (a whole number), or a share of all steps (a fraction such as 0.03), in which the learning rate
    rises. `auto`: a small share."""
    weight_decay: Auto | Annotated[float, Field(ge=0, lt=1)] = "auto"
    """Decoupled weight decay. `auto`: follows the method."""
    max_grad_norm: Auto | Annotated[float, Field(ge=0, allow_inf_nan=False)] = "auto"
    """Gradients are scaled down to this norm; 0 switches clipping off. `auto`: 1.0."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of shuffling, adapters and dropout."""
    gradient_checkpointing: Auto | Literal["off", "on", "offload"] = "auto"
    """`on` keeps only one activation a layer and computes the rest again; `offload` keeps that in host RAM. `auto`:
    off where it fits."""
    optimizer: Auto | Optimizer = "auto"
    """Axolotl's name of the optimizer; the 8-bit ones keep smaller states, the paged ones spill them to host RAM.
    `auto`: the fastest that fits."""
    attention: Auto | Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] = "auto"
    """Attention implementation. `auto`: the fastest that the card runs and the model allows."""
    cross_entropy: Auto | Literal["standard", "chunked", "liger", "cut"] = "auto"
    """How the loss is computed: `standard` holds all logits, `chunked` in pieces, `liger` (fused linear) and `cut`
    never hold them. `auto`: by need."""
    precision: Auto | Literal["bf16", "fp16", "tf32", "fp32"] = "auto"
    """What matrix products compute in. `auto`: what the card computes natively."""
    weights_dtype: Auto | Literal["bf16", "fp16", "fp32"] = "auto"
    """Type of the weights that are not quantised. `auto`: follows precision and method."""
    lora_r: Auto | Annotated[int, Field(ge=1, le=4096)] = "auto"
    """Rank of the adapters. `auto`: 16 or more, by method and dataset."""
    lora_alpha: Auto | Annotated[int, Field(ge=1, le=65536)] = "auto"
    """Scale of the adapters; what counts is lora_alpha / lora_r. `auto`: 2 x lora_r."""
    lora_dropout: Auto | Annotated[float, Field(ge=0, lt=1)] = "auto"
    """Share of adapter inputs dropped in training; above 0 it costs memory and rules out lora_kernels. `auto`: 0."""
    lora_targets: (
        Auto | Literal["all-linear", "attention"] | Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    ) = "auto"
    """Which layers get adapters: `all-linear`, `attention` (q, k, v, o), or a list of module names such as [q_proj,
    v_proj]. `auto`: all-linear."""
    lora_kernels: Auto | bool = "auto"
    """Axolotl's fused LoRA kernels (CUDA only). `auto`: where they run."""
    double_quant: Auto | bool = "auto"
    """Quantise the scales of 4-bit weights too (saves 0.05 byte a weight). `auto`: true for qlora-4bit."""
    train_embeddings: Auto | bool = "auto"
    """Train input embeddings and output head beside the adapters; large at a large vocabulary. `auto`: false unless
    the template needs new tokens."""
    zero_stage: Auto | Literal[0, 1, 2, 3] = "auto"
    """DeepSpeed ZeRO: 0 none, 1 shards optimizer states, 2 gradients too, 3 weights too. `auto`: by need."""
    fsdp: Auto | Literal["none", "full_shard", "shard_grad_op"] = "auto"
    """PyTorch's FSDP2 instead of DeepSpeed: `full_shard` splits weights, gradients and states between the devices and
    gathers one layer at a time; `shard_grad_op` keeps gathered weights until backward. `auto`: by need."""
    offload: Auto | Literal["none", "optimizer", "params"] = "auto"
    """What ZeRO keeps in host RAM: nothing, optimizer states, or weights as well (FSDP: `params` alone). `auto`: by
    need."""
    neftune_alpha: Annotated[float, Field(gt=0, le=100)] | None = None
    """Noise added to embeddings in training (NEFTune, arXiv 2310.05914), such as 5; omitted: none."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of probability spread over all tokens by the loss; omitted: 0."""
    eval_every: Cadence = "auto"
    """Optimizer steps between evaluations, `epoch` or `never`. `auto`: a few times in the run."""
    save_every: Cadence = "auto"
    """Optimizer steps between checkpoints, `epoch` or `never` (only the end is kept). `auto`: with each evaluation."""
    keep_checkpoints: Auto | Count = "auto"
    """Checkpoints kept on disk, the oldest go first. `auto`: 2."""
    early_stopping: Count | None = None
    """Evaluations without a better loss after which training stops; needs eval_every, and save_every a multiple of
    it. Omitted: off."""
    resume: bool | str = False
    """`true` goes on from the newest checkpoint of the output folder, a path from that checkpoint; omitted: start
    anew."""
    logging: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"] = "tensorboard"
    """Where curves go; `wandb` needs an account. Omitted: TensorBoard files in the output folder."""


Gguf = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_0", "q4_k_m", "q4_k_s", "q4_0", "q3_k_m", "q2_k"]
"""llama.cpp's file types, in lower case."""


class Export(Strict):
    """What `recipe export` makes of the trained model."""

    merge: bool = True
    """Fold the adapters into the weights: a folder that vLLM and transformers load."""
    gguf: Gguf | None = None
    """File type of a GGUF file for llama.cpp and Ollama, such as `q4_k_m`; omitted: none is written."""
    ollama: bool = False
    """Write a Modelfile beside the GGUF file (needs `gguf`)."""


class Recipe(Strict):
    """One small expert model: base model, machines, documents, training, export."""

    name: Name
    """Folder of the results: `generated/<name>/`."""
    base_model: Annotated[str, Field(min_length=1)]
    """Hub id such as `google/gemma-2-2b-it`, a local folder, or `embedded/smollm2-135m-instruct`. Mixtures of experts
    and vision models are refused."""
    targets: Annotated[dict[Name, Target], Field(min_length=1)]
    """Machines to compile for, by a name of one's own."""
    dataset: Dataset | None = None
    """What to learn from; omitted: the recipe can be planned and compiled, not trained."""
    training: Training = Training()
    """How to train; omitted: the planner decides everything."""
    export: Export = Export()
    """What to make of the result; omitted: a merged model."""
    axolotl: dict[str, Any] = Field(default_factory=dict)
    """Escape hatch: Axolotl keys merged last into axolotl.yaml, shown in plan.md as stated by hand."""
