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
    gathers of sharded weights: a wait each, however small                            seconds a gather

Pure and cheap (microseconds): the search calls it for every setup.
"""

from __future__ import annotations

import math

from compiler.architecture import Architecture
from compiler.facts import rates
from compiler.padding import row_tokens
from compiler.quick import dataclass
from compiler.traffic import (
    AXOLOTL,
    Stack,
    head_weight_bytes,
    int8_bytes,
    layer_of,
    loss_bytes,
    shapes_of,
)
from compiler.values import DatasetFacts, Machine, Setup, Speed

PCIE_GB_S = 128.0
"""No PCIe slot is faster one way (5.0, 16 lanes: 63; 6.0: 121); a faster link between devices is NVLink or its like."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one device does in one micro-step of `tokens`, per token unless said otherwise."""

    matmul_flops: float
    """Of the layers and their adapters."""
    matmul_bytes: float
    """Per micro-step: every weight of the layers read once a pass; products of few tokens are bound by it."""
    head_flops: float
    head_bytes: float
    """Per micro-step: the head's weight as often as its products read it."""
    attention_flops: float
    stream_bytes: float
    dequantised_weights: float
    """Per micro-step: weights turned into the compute dtype, all passes."""
    cast_bytes: float
    """Per micro-step: FP32 weights copied to 16 bits by autocast, and their gradients back."""
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
    tokens, seconds, parts = _step(architecture, setup, machine, dataset)
    total_tokens = dataset.rows * min(dataset.mean_tokens, setup.sequence_len) * epochs
    steps = max_steps if max_steps is not None else max(1, math.ceil(total_tokens / tokens)) if dataset.rows else 0
    hours = steps * seconds / 3600
    price = machine.price_usd_per_hour
    cost = None if price is None else hours * price * setup.devices
    return Speed(tokens / seconds, seconds, hours, steps, cost, _in_words(parts))


def tokens_per_second(architecture: Architecture, setup: Setup, machine: Machine, dataset: DatasetFacts) -> float:
    """`predict_speed(...).tokens_per_second` without the explanation: the search asks for it a hundred times a plan."""
    tokens, seconds, _ = _step(architecture, setup, machine, dataset)
    return tokens / seconds


Counted = tuple[str, float, str, tuple[float, ...]]
"""(name, seconds of one optimizer step, how as a format, what fills it): put into words for what is shown only."""


def _in_words(parts: list[Counted]) -> tuple[tuple[str, float, str], ...]:
    return tuple((name, seconds, how.format(*numbers)) for name, seconds, how, numbers in parts)


def _step(
    architecture: Architecture, setup: Setup, machine: Machine, dataset: DatasetFacts
) -> tuple[float, float, list[Counted]]:
    """(useful tokens, seconds, parts) of one optimizer step."""
    padded, useful, attended = row_tokens(setup, dataset)
    parts = _as_measured(_counted(architecture, setup, machine, padded, attended, AXOLOTL), machine)
    seconds = sum([part[1] for part in parts])
    share = useful / padded
    tokens = padded * setup.micro_batch * setup.gradient_accumulation * setup.devices * share
    return tokens, seconds, parts


def _as_measured(parts: list[Counted], machine: Machine) -> list[Counted]:
    """The parts, and what this project's own runs on the machine add to them or take off (`recipe calibrate`)."""
    measured = machine.measured
    if measured is None or measured.step_factor == 1.0:
        return parts
    more = (measured.step_factor - 1.0) * sum([part[1] for part in parts])
    how = "steps on this machine took {:.3g} times the above ({} measured)"
    return [*parts, ("as measured here", more, how, (measured.step_factor, measured.runs))]


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
    return _in_words(_counted(architecture, setup, machine, padded, attended, stack))


def _counted(
    architecture: Architecture, setup: Setup, machine: Machine, padded: float, attended: float, stack: Stack
) -> list[Counted]:
    rate = rates()
    work = micro_work(architecture, setup, attended, stack, padded)
    tflops, bandwidth = _rates_of(machine, setup)
    tokens = setup.micro_batch * padded
    times = setup.gradient_accumulation
    shares = rate["matmul_share"]
    share_of = shares.get(machine.id) or shares.get(machine.capability) or shares["default"]
    flops, streamed = tflops * share_of * 1e12, bandwidth * rate["memory_share"] * 1e9
    # the last row of tiles of a product is half empty on average
    rows = tokens + rate["tile_tokens"] / 2
    layers, head = (
        max(rows * work.matmul_flops / flops, work.matmul_bytes / streamed),
        max(rows * work.head_flops / flops, work.head_bytes / streamed),
    )
    matmul = times * (layers + head)
    attention_rate = rate["attention_share"] * min(1.0, architecture.head_dim / 128) ** rate["attention_head_exponent"]
    attention = times * tokens * work.attention_flops / (tflops * attention_rate * 1e12)
    stream = times * (tokens * work.stream_bytes + work.cast_bytes) / streamed
    each = stack.dequantise_seconds or rate["dequantise_bytes_per_weight"] / (bandwidth * 1e9)
    dequant = times * work.dequantised_weights * each
    device = matmul + attention + stream + dequant
    gathers = weight_gathers(architecture, setup, stack)
    micro_host = work.kernels * rate["launch_seconds"] + architecture.num_layers * stack.layer_host_seconds
    host = times * micro_host + gathers * rate["collective_seconds"]
    launch = _beyond(host, device, rate["overlap_exponent"])
    gflops = (work.matmul_flops + work.head_flops) / 1e9
    parts: list[Counted] = [
        ("matrix products", matmul, "{:.1f} GFLOP a token", (gflops,)),
        ("attention", attention, "{:.2f} GFLOP a token", (work.attention_flops / 1e9,)),
        ("memory-bound kernels", stream, "{:.2f} MB a token", (work.stream_bytes / 1e6,)),
    ]
    if dequant:
        giga = work.dequantised_weights / 1e9
        parts.append(("dequantisation", dequant, "{:.1f} G weights a micro-step", (giga,)))
    if launch:
        also = " and {} gathers a step" if gathers else ""
        how = "{} kernels a micro-step" + also + ", beyond the device's own time"
        parts.append(("kernel launches", launch, how, (work.kernels, gathers)))
    return parts + _step_parts(architecture, setup, machine, stack, bandwidth, device + launch, tokens, gathers)


def weight_gathers(architecture: Architecture, setup: Setup, stack: Stack = AXOLOTL) -> int:
    """How often a step gathers the sharded weights of a layer or of one adapter: each costs the host some time."""
    if setup.devices == 1 or (setup.zero_stage < 3 and setup.fsdp == "none"):
        return 0
    if setup.fsdp != "none":
        passes, units = 2 if setup.fsdp == "full_shard" else 1, 2
    else:
        passes, units = 3 if setup.gradient_checkpointing != "off" else 2, 2 * stack.adapter_collectives
    adapted = 0 if setup.method == "full" else shapes_of(architecture, setup.lora_targets).adapted
    return setup.gradient_accumulation * passes * architecture.num_layers * (1 + units * adapted)


def _beyond(host: float, device: float, exponent: float) -> float:
    """Seconds that the host's launches add to the device's time. Where one of the two is far longer, the longer one
    counts; where they are alike, kernels shorter than their launch leave gaps that the long ones cannot fill."""
    longer, shorter = max(host, device), min(host, device)
    return longer * (1 + (shorter / longer) ** exponent) ** (1 / exponent) - device if longer else 0.0


def _step_parts(
    architecture: Architecture,
    setup: Setup,
    machine: Machine,
    stack: Stack,
    bandwidth: float,
    compute: float,
    tokens: float,
    gathers: int,
) -> list[Counted]:
    """Parts that an optimizer step pays once, and what sharding and offload add."""
    rate = rates()
    trained, total = trained_parameters(architecture, setup), architecture.parameters.total
    shard = setup.devices if setup.zero_stage >= 1 or setup.fsdp != "none" else 1
    size = 2 if setup.weights_dtype != "fp32" and setup.method == "full" else 4
    loop = rate["step_seconds"] if stack.loop_seconds is None else stack.loop_seconds
    parts: list[Counted] = [("training loop", loop, "host work of one optimizer step, whatever its size", ())]
    moved = trained / shard * optimizer_bytes(setup, 4 if stack.fp32_masters else size)
    if setup.offload == "none":
        seconds = moved / (bandwidth * rate["memory_share"] * 1e9)
        parts.append(("optimizer", seconds, "{:.2f} GB moved", (moved / 1e9,)))
    else:
        host = machine.host_gb_s or machine.interconnect_gb_s or 15.75
        seconds = trained / shard * (2 * size / (host * 1e9) + 28 / (rate["host_update_gb_s"] * 1e9))
        parts.append(("optimizer in host RAM", seconds, "gradients down, weights up, states updated by the CPU", ()))
    if setup.offload == "params":
        host = machine.host_gb_s or machine.interconnect_gb_s or 15.75
        passes = 3 if setup.gradient_checkpointing != "off" else 2
        moved = setup.gradient_accumulation * passes * total * weight_bytes(setup) / setup.devices
        seconds = moved / (host * rate["host_copy_share"] * 1e9)
        parts.append(("parameters over PCIe", seconds, "{:.1f} GB", (moved / 1e9,)))
    if setup.gradient_checkpointing == "offload":
        host = machine.host_gb_s or machine.interconnect_gb_s or 15.75
        moved = 2 * setup.gradient_accumulation * tokens * architecture.num_layers * architecture.hidden_size * 2
        exposed = max(0.0, moved / (host * rate["host_copy_share"] * 1e9) - compute)
        how = "{:.1f} GB, the part not hidden behind compute"
        parts.append(("activations over PCIe", exposed, how, (moved / 1e9,)))
    if setup.devices > 1:
        parts += _shared(architecture, setup, machine, compute, trained * size, total, stack.reduce_once)
    if gathers:
        wait = gathers * rate["gather_wait_seconds"]
        parts.append(("waiting for weights", wait, "{} gathers a step, however small", (gathers,)))
    return parts


def link_bytes_per_second(machine: Machine) -> float:
    """What collectives between the devices reach, one direction."""
    # without peer-to-peer every byte goes down to the host and up again
    gb_s = machine.interconnect_gb_s or 15.75
    if gb_s > PCIE_GB_S:
        reached = rates()["link_share"]
    else:
        shares = rates()["pcie_share"]
        reached = shares.get(machine.id) or shares["default"]
    return gb_s * (1.0 if machine.peer_to_peer else 0.5) * reached * 1e9


def _shared(
    architecture: Architecture,
    setup: Setup,
    machine: Machine,
    compute: float,
    gradient_bytes: float,
    total: int,
    reduce_once: bool = False,
) -> list[Counted]:
    rate, link = rates(), link_bytes_per_second(machine)
    share = (setup.devices - 1) / setup.devices
    if setup.fsdp != "none":
        # backward gathers once: a checkpointed layer is computed again with the weights that its backward needs
        passes = setup.gradient_accumulation * (2 if setup.fsdp == "full_shard" else 1)
        moved = share * (passes * total * weight_bytes(setup) + setup.gradient_accumulation * gradient_bytes)
    elif setup.zero_stage < 3:
        moved = (2 if setup.zero_stage < 2 else 1) * share * gradient_bytes
        if setup.zero_stage in (1, 2):
            moved += share * gradient_bytes  # updated weights are gathered
    else:
        passes = setup.gradient_accumulation * (3 if setup.gradient_checkpointing != "off" else 2)
        reduced = 1 if reduce_once else setup.gradient_accumulation
        moved = share * (passes * total * weight_bytes(setup) + reduced * gradient_bytes)
    seconds = moved / link
    # part of the transfer runs beside the compute of the next layer
    exposed = max(seconds - compute, (1 - rate["hidden_share"]) * seconds)
    return [
        ("between devices", exposed, "{:.2f} GB a device, the part not hidden behind compute", (moved / 1e9,)),
        ("waiting for the slowest device", compute * rate["straggler_share"], "measured on 2 and 4 devices", ()),
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


def micro_work(
    architecture: Architecture, setup: Setup, attended: float, stack: Stack = AXOLOTL, row: float | None = None
) -> Work:
    """FLOPs, bytes and kernels of one micro-step; FLOPs and bytes per token. `row`: tokens of one row as computed."""
    a = architecture
    full, checkpointed = setup.method == "full", setup.gradient_checkpointing != "off"
    forward = 2 if checkpointed else 1  # passes over a layer before its backward
    layer = layer_of(a, setup, stack)
    shapes = layer.shapes
    weights, head = a.parameters.linear, a.vocab_size * a.hidden_size
    adapter = a.num_layers * (setup.lora_r or 16) * (shapes.adapted_inputs + shapes.adapted_outputs)
    trains_head = full or setup.train_embeddings
    matmul = 2 * weights * (forward + 1 + full) + 2 * adapter * (forward + 2)
    head_flops = 2 * head * (2 + trains_head + (setup.cross_entropy == "cut"))
    window = min(attended, a.sliding_window or attended)
    spans = a.windowed_layers * min(attended / 2, window) + (a.num_layers - a.windowed_layers) * attended / 2
    eager = setup.attention == "eager"
    attention = 4 * a.query_size * spans * (2 if eager else 1) * (forward + (2 if eager else 2.5))
    stream = a.num_layers * (forward * layer.forward_bytes + layer.backward_bytes) + loss_bytes(a, setup, stack)
    if eager:  # scores, mask, softmax in FP32 and back, each over heads x length
        stream += a.num_layers * (forward + 2) * 20 * a.num_heads * attended
    # every product reads its input and writes its output; weights are read once a pass
    stream += a.num_layers * (forward + 1 + full) * 2 * (shapes.inputs + shapes.outputs)
    dequantised = weights * {"qlora-4bit": forward + 1, "lora-8bit": 1}.get(setup.method, 0)
    if setup.method == "lora-8bit":
        stream += a.num_layers * forward * int8_bytes(shapes)
    elif dequantised and stack.quantised_head_chunk:
        dequantised += 2 * head * math.ceil((row or attended) / stack.quantised_head_chunk)
    wide = setup.weights_dtype == "fp32" and setup.precision in ("bf16", "fp16") and not dequantised
    casts = 6 * (weights * (forward + full) + head * (1 + trains_head)) if wide else 0
    kernels = int(a.num_layers * (forward + 1.6) * layer.kernels)
    return Work(
        matmul,
        weights * 2 * (forward + 1 + full),
        head_flops,
        head_weight_bytes(a, trains_head),
        attention,
        stream,
        dequantised,
        casts,
        kernels,
    )
