"""Axolotl's fused LoRA kernels on the symbolic tape (`axolotl/kernels/lora.py`): `LoRA_QKV`, `LoRA_O`, `LoRA_MLP`.

They compute in the dtype of their input (two bytes under autocast); the adapters' factors are cast to it.
"""

from __future__ import annotations

from compiler.memory.operations import FP32, HALF, Adapter, dequantised
from compiler.memory.tape import ZERO, Grads, Storage, Tape, Tensor


def _weight(tape: Tape, kind: Adapter, size: float) -> Storage | None:
    return dequantised(tape, size, kind) if kind.quant == "4bit" else None


def _width(tape: Tape, x: Tensor) -> int:
    return HALF if tape.autocast else x.width


def _copied(width: int, kind: Adapter) -> int:
    """Bytes of an element of a factor's copy: none where the kernels compute in FP32, as the factors are, and none
    where the factors come in two bytes."""
    return 0 if width == FP32 or kind.narrowed_before else width


def _matmul(tape: Tape, inputs: float, outputs: float, kind: Adapter, width: int) -> Storage:
    """`matmul_lora`: base product, then the adapter's added in place; copies of its factors meanwhile."""
    weight = _weight(tape, kind, inputs * outputs)
    out = tape.bytes_(width * outputs)
    del weight
    factors = tape.bytes_(const=_copied(width, kind) * kind.rank * (inputs + outputs))
    low = tape.bytes_(width * kind.rank)
    del factors, low
    return out


def _factor_gradients(tape: Tape, inputs: float, outputs: float, kind: Adapter, width: int) -> Storage:
    """Gradients of both factors; they become FP32 when autograd hands them to the parameters."""
    return tape.bytes_(const=width * kind.rank * (inputs + outputs))


def _hand_over(tape: Tape, made: list[Storage], width: int) -> None:
    while made:
        storage = made.pop(0)
        wide = storage if width == FP32 else tape.bytes_(const=FP32 / width * storage.size[0])
        tape.keep(wide)
        del storage, wide
        tape.release()


def fused_projection(tape: Tape, x: Tensor, outputs: list[int], kind: Adapter) -> list[Tensor]:
    """`LoRA_QKV` (three outputs) or `LoRA_O` (one): the input and copies of the factors are saved."""
    inputs, width = x.elements, _width(tape, x)
    results = [_matmul(tape, inputs, size, kind, width) for size in outputs]
    copies = tape.bytes_(const=_copied(width, kind) * kind.rank * sum(inputs + size for size in outputs))
    incoming: list[Storage] = []

    def hold(grad: list[Storage]) -> Grads:
        incoming.append(grad[0])
        return (Storage(tape, ZERO),)

    def backward(grad: list[Storage]) -> Grads:
        grad.clear()
        low = [tape.bytes_(width * kind.rank) for _ in outputs]
        made = [_factor_gradients(tape, inputs, size, kind, width) for size in outputs]
        result: list[Storage] = []
        for size in outputs:
            weight = _weight(tape, kind, inputs * size)
            if not result:
                result.append(tape.bytes_(width * inputs))
            del weight
        low.clear()
        incoming.clear()
        _hand_over(tape, made, FP32 if kind.narrowed_before else width)
        return result

    function = tape.make(results[0], 0, width, (x,), (x.storage, copies), backward)
    return [
        tape.make(storage, size, width, (function,), (), hold) for storage, size in zip(results, outputs, strict=True)
    ]


def fused_mlp(tape: Tape, x: Tensor, mlp: int, kind: Adapter) -> Tensor:
    """`LoRA_MLP`: input, gate and up are saved; the activation's backward writes over them."""
    hidden, width = x.elements, _width(tape, x)
    gate, up = (_matmul(tape, hidden, mlp, kind, width) for _ in range(2))
    active = tape.bytes_(width * mlp)
    out = _matmul(tape, mlp, hidden, kind, width)
    copies = tape.bytes_(const=3 * _copied(width, kind) * kind.rank * (hidden + mlp))
    del active

    def backward(grad: list[Storage]) -> Grads:
        grad_down = _matmul(tape, hidden, mlp, kind, width)
        made = []
        for _ in range(3):
            made.append(_factor_gradients(tape, hidden, mlp, kind, width))
            low = tape.bytes_(width * 2 * kind.rank)
            del low
        weight = _weight(tape, kind, hidden * mlp)
        result = tape.bytes_(width * hidden)
        del weight
        weight = _weight(tape, kind, hidden * mlp)
        del weight, grad_down
        grad.clear()
        _hand_over(tape, made, FP32 if kind.narrowed_before else width)
        return (result,)

    return tape.make(out, hidden, width, (x,), (x.storage, gate, up, copies), backward)
