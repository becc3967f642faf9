"""Seconds of an optimizer step and of a run, from work (FLOPs, bytes, kernels) and achieved rates (`facts/rates.yaml`).

    T = tokens of one micro-step on one device; a step = gradient_accumulation micro-steps + reduction + optimizer

    part                  work                                                        rate
    matrix products       per weight 2 T forward, 2 T backward, 2 T recomputed,       dense TFLOPS x share
                          2 T for its own gradient where it trains
    attention             4 x query size x length / 2 forward, 2.5 times it backward  dense TFLOPS x share
    memory-bound kernels  bytes of norms, rotary, gates, residuals, adapters, loss    bandwidth x share
    dequantisation        every pass over a quantised weight writes it out            bandwidth
    kernel launches       what the host needs beyond the device's own time            seconds a kernel
    optimizer, sharding, offload: bytes of states, gradients, parameters              bandwidth, link, PCIe

Pure and cheap (microseconds): the search calls it for every setup.
"""

from __future__ import annotations

import math
from functools import lru_cache

from compiler.architecture import Architecture
from compiler.facts import rates
from compiler.quick import dataclass
from compiler.values import DatasetFacts, Machine, Setup, Speed


@dataclass(frozen=True, slots=True)
class Stack:
    """How another training program differs from an Axolotl plan; only comparisons with its measurements set it."""

    fused_layers: bool = False
    """Norms and rotary positions as one kernel each (Liger's layer kernels, which plans leave off)."""
    fp32_stream: bool = False
    """The residual stream in FP32 (PEFT's k-bit preparation without autocast)."""
    adapter_dtype_bytes: int = 4
    """Adapter weights; PEFT copies the adapter's input to their dtype."""
    adapter_collectives: bool = False
    """Every adapter matrix is gathered on its own (FSDP's wrapping for PEFT); ZeRO-3 keeps parameters that small."""


AXOLOTL = Stack()


@dataclass(frozen=True, slots=True)
class Work:
    """What one device does in one micro-step of `tokens`, per token unless said otherwise."""

    matmul_flops: float
    matmul_bytes: float
    """Per micro-step: every weight read once a pass; products of few tokens are bound by it."""
    attention_flops: float
    stream_bytes: float
    dequantised_weights: float
    """Per micro-step: weights turned into the compute dtype, all passes."""
    kernels: int
    """Per micro-step."""


def predict_speed(
    architecture: Architecture,
    setup: Setup,
    machine: Machine,
    dataset: DatasetFacts,
    epochs: float = 1.0,
    max_steps: int | None = None,
) -> Speed:
    """Tokens per second, seconds per step, hours and cost of a run. `epochs` counts only where `max_steps` is None."""
    padded, useful, attended = row_tokens(setup, dataset)
    parts = _as_measured(step_parts(architecture, setup, machine, padded, attended), machine)
    seconds = sum(part[1] for part in parts)
    share = useful / padded
    tokens = padded * setup.micro_batch * setup.gradient_accumulation * setup.devices * share
    total_tokens = dataset.rows * min(dataset.mean_tokens, setup.sequence_len) * epochs
    steps = max_steps if max_steps is not None else max(1, math.ceil(total_tokens / tokens)) if dataset.rows else 0
    hours = steps * seconds / 3600
    price = machine.price_usd_per_hour
    cost = None if price is None else hours * price * setup.devices
    return Speed(tokens / seconds, seconds, hours, steps, cost, parts)


def _as_measured(parts: tuple[tuple[str, float, str], ...], machine: Machine) -> tuple[tuple[str, float, str], ...]:
    """The parts, and what this project's own runs on the machine add to them or take off (`recipe calibrate`)."""
    measured = machine.measured
    if measured is None or measured.step_factor == 1.0:
        return parts
    more = (measured.step_factor - 1.0) * sum(part[1] for part in parts)
    how = f"steps on this machine took {measured.step_factor:.3g} times the above ({measured.runs} measured)"
    return (*parts, ("as measured here", more, how))


def step_parts(
    architecture: Architecture,
    setup: Setup,
    machine: Machine,
    padded: float,
    attended: float,
    stack: Stack = AXOLOTL,
) -> tuple[tuple[str, float, str], ...]:
    """(name, seconds of one optimizer step, how). `padded`: tokens of one row as computed; `attended`: tokens that a
    row's attention spans."""
    rate = rates()
    work = micro_work(architecture, setup, attended, stack)
    tflops, bandwidth = _rates_of(machine, setup)
    tokens = setup.micro_batch * padded
    times = setup.gradient_accumulation
    shares = rate["matmul_share"]
    share_of = shares.get(machine.id) or shares.get(machine.capability) or shares["default"]
    products = tokens * work.matmul_flops / (tflops * share_of * 1e12)
    matmul = times * max(products, work.matmul_bytes / (bandwidth * rate["memory_share"] * 1e9))
    attention_rate = rate["attention_share"] * min(1.0, architecture.head_dim / 128) ** rate["attention_head_exponent"]
    attention = times * tokens * work.attention_flops / (tflops * attention_rate * 1e12)
    stream = times * tokens * work.stream_bytes / (bandwidth * rate["memory_share"] * 1e9)
    dequant = times * work.dequantised_weights * rate["dequantise_bytes_per_weight"] / (bandwidth * 1e9)
    device = matmul + attention + stream
    launch = max(0.0, times * work.kernels * rate["launch_seconds"] - device)
    parts = [
        ("matrix products", matmul, f"{work.matmul_flops / 1e9:.1f} GFLOP a token"),
        ("attention", attention, f"{work.attention_flops / 1e9:.2f} GFLOP a token"),
        ("memory-bound kernels", stream, f"{work.stream_bytes / 1e6:.2f} MB a token"),
    ]
    if dequant:
        parts.append(("dequantisation", dequant, f"{work.dequantised_weights / 1e9:.1f} G weights a micro-step"))
    if launch:
        parts.append(("kernel launches", launch, f"{work.kernels} kernels a micro-step, beyond the device's own time"))
    parts += _step_parts(architecture, setup, machine, bandwidth, device + dequant + launch, tokens, stack)
    return tuple(parts)


def _step_parts(
    architecture: Architecture,
    setup: Setup,
    machine: Machine,
    bandwidth: float,
    compute: float,
    tokens: float,
    stack: Stack,
) -> list[tuple[str, float, str]]:
    """Parts that an optimizer step pays once, and what sharding and offload add."""
    rate = rates()
    trained, total = trained_parameters(architecture, setup), architecture.parameters.total
    shard = setup.devices if setup.zero_stage >= 1 or setup.fsdp != "none" else 1
    size = 2 if setup.weights_dtype != "fp32" and setup.method == "full" else 4
    parts: list[tuple[str, float, str]] = []
    parts.append(("training loop", rate["step_seconds"], "host work of one optimizer step, whatever its size"))
    moved = trained / shard * optimizer_bytes(setup, size)
    if setup.offload == "none":
        parts.append(("optimizer", moved / (bandwidth * rate["memory_share"] * 1e9), f"{moved / 1e9:.2f} GB moved"))
    else:
        host = machine.host_gb_s or machine.interconnect_gb_s or 15.75
        seconds = trained / shard * (2 * size / (host * 1e9) + 28 / (rate["host_update_gb_s"] * 1e9))
        parts.append(("optimizer in host RAM", seconds, "gradients down, weights up, states updated by the CPU"))
    if setup.offload == "params":
        host = machine.host_gb_s or machine.interconnect_gb_s or 15.75
        passes = 3 if setup.gradient_checkpointing != "off" else 2
        moved = setup.gradient_accumulation * passes * total * weight_bytes(setup) / setup.devices
        parts.append(("parameters over PCIe", moved / (host * rate["link_share"] * 1e9), f"{moved / 1e9:.1f} GB"))
    if setup.gradient_checkpointing == "offload":
        host = machine.host_gb_s or machine.interconnect_gb_s or 15.75
        moved = 2 * setup.gradient_accumulation * tokens * architecture.num_layers * architecture.hidden_size * 2
        exposed = max(0.0, moved / (host * rate["link_share"] * 1e9) - compute)
        parts.append(("activations over PCIe", exposed, f"{moved / 1e9:.1f} GB, the part not hidden behind compute"))
    if setup.devices > 1:
        parts += _shared(architecture, setup, machine, compute, trained * size, total, stack)
    return parts


def _shared(
    architecture: Architecture,
    setup: Setup,
    machine: Machine,
    compute: float,
    gradient_bytes: float,
    total: int,
    stack: Stack,
) -> list[tuple[str, float, str]]:
    rate = rates()
    # without peer-to-peer every byte goes down to the host and up again
    link = (machine.interconnect_gb_s or 15.75) * (1.0 if machine.peer_to_peer else 0.5) * rate["link_share"] * 1e9
    share = (setup.devices - 1) / setup.devices
    if setup.fsdp != "none":
        # backward gathers once: a checkpointed layer is computed again with the weights that its backward needs
        passes = setup.gradient_accumulation * (2 if setup.fsdp == "full_shard" else 1)
        moved = share * (passes * total * weight_bytes(setup) + setup.gradient_accumulation * gradient_bytes)
        adapted = shapes_of(architecture, None if setup.method == "full" else setup.lora_targets).adapted
        collectives = passes * architecture.num_layers * (1 + 2 * adapted)
    elif setup.zero_stage < 3:
        moved, collectives = (2 if setup.zero_stage < 2 else 1) * share * gradient_bytes, 4
        if setup.zero_stage in (1, 2):
            moved += share * gradient_bytes  # updated weights are gathered
    else:
        passes = setup.gradient_accumulation * (3 if setup.gradient_checkpointing != "off" else 2)
        moved = share * (passes * total * weight_bytes(setup) + setup.gradient_accumulation * gradient_bytes)
        adapted = shapes_of(architecture, None if setup.method == "full" else setup.lora_targets).adapted
        collectives = passes * architecture.num_layers * (1 + 2 * adapted * stack.adapter_collectives)
    seconds = moved / link
    # the transfer runs beside the compute of the next layer, starting it does not
    exposed = max(seconds - compute, (1 - rate["hidden_share"]) * seconds) + collectives * rate["collective_seconds"]
    return [
        ("between devices", exposed, f"{moved / 1e9:.2f} GB a device, a quarter of it or more not hidden"),
        ("waiting for the slowest device", compute * rate["straggler_share"], "measured on 2 and 4 devices"),
    ]


def trained_parameters(architecture: Architecture, setup: Setup) -> int:
    if setup.method == "full":
        return architecture.parameters.total
    shapes = shapes_of(architecture, setup.lora_targets)
    trained = architecture.num_layers * (setup.lora_r or 16) * (shapes.adapted_inputs + shapes.adapted_outputs)
    return trained + (architecture.parameters.embedding + architecture.parameters.head if setup.train_embeddings else 0)


def weight_bytes(setup: Setup) -> float:
    return {"qlora-4bit": 0.52, "lora-8bit": 1.0}.get(setup.method, 4.0 if setup.weights_dtype == "fp32" else 2.0)


def optimizer_bytes(setup: Setup, size: int) -> float:
    """Bytes read and written per trained parameter: weight, gradient and two states; foreach AdamW in six passes."""
    if setup.optimizer == "sgd":
        return 3 * size
    if "8bit" in setup.optimizer:
        return 3 * size + 4
    return 7 * size if "fused" in setup.optimizer else 22 * size


def _rates_of(machine: Machine, setup: Setup) -> tuple[float, float]:
    """(dense TFLOPS, GB/s) of the datasheet, halved or more where the precision is wider than 16 bits."""
    rate = rates()
    tflops = machine.bf16_tflops or rate["cpu_tflops"]
    if setup.precision == "tf32":
        tflops /= 2
    elif setup.precision == "fp32":
        tflops /= 8 if machine.backend != "cpu" else 1
    return tflops, machine.bandwidth_gb_s or rate["cpu_bandwidth_gb_s"]


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sums over the linears of one layer that no setting but the adapters' changes."""

    inputs: int
    outputs: int
    adapted: int
    """Linears that carry an adapter."""
    adapted_inputs: int
    adapted_outputs: int


@lru_cache(maxsize=1024)
def shapes_of(architecture: Architecture, targets: str | tuple[str, ...] | None) -> Shapes:
    linears = architecture.linears
    adapted = architecture.lora_linears(targets) if targets else ()
    return Shapes(
        sum(one.in_features for one in linears),
        sum(one.out_features for one in linears),
        len(adapted),
        sum(one.in_features for one in adapted),
        sum(one.out_features for one in adapted),
    )


def micro_work(architecture: Architecture, setup: Setup, attended: float, stack: Stack = AXOLOTL) -> Work:
    """FLOPs, bytes and kernels of one micro-step; FLOPs and bytes per token."""
    a = architecture
    full, checkpointed = setup.method == "full", setup.gradient_checkpointing != "off"
    forward = 2 if checkpointed else 1  # passes over a layer before its backward
    shapes = shapes_of(a, None if full else setup.lora_targets)
    weights = a.parameters.linear
    adapter = a.num_layers * (setup.lora_r or 16) * (shapes.adapted_inputs + shapes.adapted_outputs)
    head = a.vocab_size * a.hidden_size
    trains_head = full or setup.train_embeddings
    matmul = 2 * weights * (forward + 1 + full) + 2 * adapter * (forward + 2)
    matmul += 2 * head * (2 + trains_head + (setup.cross_entropy == "cut"))
    window = min(attended, a.sliding_window or attended)
    spans = a.windowed_layers * min(attended / 2, window) + (a.num_layers - a.windowed_layers) * attended / 2
    eager = setup.attention == "eager"
    attention = 4 * a.query_size * spans * (2 if eager else 1) * (forward + (2 if eager else 2.5))
    layer = _layer_bytes(a, stack, setup)
    adapters = _adapter_bytes(shapes, setup, stack)
    stream = a.num_layers * (forward * (layer[0] + adapters[0]) + layer[1] + adapters[1]) + _loss_bytes(a, setup)
    if eager:  # scores, mask, softmax in FP32 and back, each over heads x length
        stream += a.num_layers * (forward + 2) * 20 * a.num_heads * attended
    # every product reads its input and writes its output; weights are read once a pass
    stream += a.num_layers * (forward + 1 + full) * 2 * (shapes.inputs + shapes.outputs)
    quantised = {"qlora-4bit": forward + 1, "lora-8bit": 1}.get(setup.method, 0)
    if setup.method == "lora-8bit":  # LLM.int8 quantises inputs row by row and turns INT32 sums back, forward only
        stream += a.num_layers * forward * (6 * shapes.inputs + 10 * shapes.outputs)
    per_layer = (15 if stack.fused_layers else 35) + 6 * shapes.adapted + (3 * len(a.linears) if quantised else 0)
    kernels = int(a.num_layers * (forward + 1.6) * per_layer)
    return Work(matmul, weights * 2 * (forward + 1), attention, stream, weights * quantised, kernels)


def _layer_bytes(a: Architecture, stack: Stack, setup: Setup) -> tuple[float, float]:
    """(forward, backward): bytes that the elementwise kernels of one layer read and write per token.

    Counted kernel by kernel in the eager model code of transformers and its autograd formulas: RMSNorm is six kernels
    forward, most in FP32; LayerNorm is one; a rotary embedding is six; SiLU times up is two."""
    hidden, wide = a.hidden_size, 2 if stack.fp32_stream or setup.precision in ("fp32", "tf32") else 1
    slow = rates()["strided_factor"]
    norm = (4, 8) if stack.fused_layers or a.norm != "rmsnorm" else (36 * slow, 80 * slow)
    rotary = (0, 0) if a.learned_positions else (4, 4) if stack.fused_layers else (20 * slow, 30 * slow)
    gate = (6, 10) if setup.lora_kernels and a.gated_mlp else (10, 18) if a.gated_mlp else (4, 6)
    rotated = a.query_size + a.kv_size
    residual = (12, 30)  # backward: sums of the gradients of q, k, v, of gate and up, and of both branches
    return (
        wide * hidden * (norm[0] * a.norms_per_layer + residual[0])
        + rotary[0] * rotated
        + gate[0] * a.intermediate_size,
        wide * hidden * (norm[1] * a.norms_per_layer + residual[1])
        + rotary[1] * rotated
        + gate[1] * a.intermediate_size,
    )


def _adapter_bytes(shapes: Shapes, setup: Setup, stack: Stack) -> tuple[float, float]:
    """(forward, backward): bytes of the adapters of one layer per token. PEFT copies the input to the adapter's dtype,
    scales the output and adds it in kernels of their own; Axolotl's LoRA kernels add in place."""
    if setup.lora_kernels:
        forward, backward = (2, 4), (6, 4)
    elif stack.adapter_dtype_bytes == 4:
        forward, backward = (10, 28), (20, 22)
    else:
        forward, backward = (2, 12), (10, 8)
    into, out = shapes.adapted_inputs, shapes.adapted_outputs
    return forward[0] * into + forward[1] * out, backward[0] * into + backward[1] * out


def _loss_bytes(a: Architecture, setup: Setup) -> float:
    """Per token: bytes of the loss's passes over the logits, forward and backward."""
    per_logit = {"standard": 32, "chunked": 12, "liger": 8, "cut": 0}[setup.cross_entropy]
    return a.vocab_size * (per_logit + (6 if a.final_logit_softcapping else 0) + (4 if a.logits_scaling else 0))


def row_tokens(setup: Setup, dataset: DatasetFacts) -> tuple[float, float, float]:
    """(tokens computed, useful tokens, tokens attended to) of one row of a micro-batch."""
    length, mean = setup.sequence_len, max(1.0, min(dataset.mean_tokens, setup.sequence_len))
    spread = _spread(dataset)
    if setup.sample_packing:
        rows = length / mean
        # first-fit decreasing leaves little when many rows share a bin, and a fraction of a row when few do
        fill = 0.98 if rows >= 4 else max(min(0.98, math.floor(rows) * mean / length), 0.75) if spread else 1.0
        varlen = setup.attention in ("flash_attention_2", "flex_attention")
        return length, length * fill, min(length, mean * math.exp(spread**2)) if varlen else length
    longest = mean if setup.micro_batch == 1 or not spread else mean * math.exp(
        _normal_quantile(setup.micro_batch / (setup.micro_batch + 1)) * spread - spread**2 / 2
    )  # fmt: skip
    padded = min(float(length), max(mean, longest))
    return padded, mean, padded


def _spread(dataset: DatasetFacts) -> float:
    """Standard deviation of the log length, taking lengths as log-normal with the given mean and 99th percentile."""
    ratio = dataset.p99_tokens / max(1.0, dataset.mean_tokens)
    if ratio <= 1.0:
        return 0.0
    log = math.log(ratio)
    # mean = exp(mu + s^2/2), p99 = exp(mu + 2.326 s)  =>  s^2/2 - 2.326 s + log = 0, the smaller root
    return 2.326 - math.sqrt(max(0.0, 2.326**2 - 2 * log))


def _normal_quantile(p: float) -> float:
    """Abramowitz and Stegun 26.2.23, error below 4.5e-4, for p >= 0.5."""
    t = math.sqrt(-2 * math.log(1 - p))
    return t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
