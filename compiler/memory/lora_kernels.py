"""Axolotl's fused LoRA kernels on the symbolic tape (`axolotl/kernels/lora.py`): `LoRA_QKV`, `LoRA_O`, `LoRA_MLP`."""

from __future__ import annotations

from compiler.memory.operations import HALF, Adapter, dequantised
from compiler.memory.tape import ZERO, Grads, Storage, Tape, Tensor


def _weight(tape: Tape, kind: Adapter, size: float) -> Storage | None:
    return dequantised(tape, size) if kind.quant == "4bit" else None


def _matmul(tape: Tape, inputs: float, outputs: float, kind: Adapter) -> Storage:
    """`matmul_lora`: base product, then the adapter's added in place; two-byte copies of its factors meanwhile."""
    weight = _weight(tape, kind, inputs * outputs)
    out = tape.bytes_(HALF * outputs)
    del weight
    factors = tape.bytes_(const=HALF * kind.rank * (inputs + outputs))
    low = tape.bytes_(HALF * kind.rank)
    del factors, low
    return out


def _narrow_gradients(tape: Tape, inputs: float, outputs: float, kind: Adapter) -> Storage:
    """Two-byte gradients of both factors; they become FP32 when autograd hands them to the parameters."""
    return tape.bytes_(const=HALF * kind.rank * (inputs + outputs))


def _hand_over(tape: Tape, narrow: list[Storage]) -> None:
    while narrow:
        storage = narrow.pop(0)
        wide = tape.bytes_(const=2 * storage.size[0])
        tape.keep(wide)
        del storage, wide
        tape.release()


def fused_projection(tape: Tape, x: Tensor, outputs: list[int], kind: Adapter) -> list[Tensor]:
    """`LoRA_QKV` (three outputs) or `LoRA_O` (one): the input and two-byte copies of the factors are saved."""
    inputs = x.elements
    results = [_matmul(tape, inputs, size, kind) for size in outputs]
    copies = tape.bytes_(const=HALF * kind.rank * sum(inputs + size for size in outputs))
    incoming: list[Storage] = []

    def hold(grad: list[Storage]) -> Grads:
        incoming.append(grad[0])
        return (Storage(tape, ZERO),)

    def backward(grad: list[Storage]) -> Grads:
        grad.clear()
        low = [tape.bytes_(HALF * kind.rank) for _ in outputs]
        narrow = [_narrow_gradients(tape, inputs, size, kind) for size in outputs]
        result: list[Storage] = []
        for size in outputs:
            weight = _weight(tape, kind, inputs * size)
            if not result:
                result.append(tape.bytes_(HALF * inputs))
            del weight
        low.clear()
        incoming.clear()
        _hand_over(tape, narrow)
        return result

    function = tape.make(results[0], 0, HALF, (x,), (x.storage, copies), backward)
    return [
        tape.make(storage, size, HALF, (function,), (), hold) for storage, size in zip(results, outputs, strict=True)
    ]


def fused_mlp(tape: Tape, x: Tensor, mlp: int, kind: Adapter) -> Tensor:
    """`LoRA_MLP`: input, gate and up are saved; the activation's backward writes over them."""
    hidden = x.elements
    gate, up = _matmul(tape, hidden, mlp, kind), _matmul(tape, hidden, mlp, kind)
    active = tape.bytes_(HALF * mlp)
    out = _matmul(tape, mlp, hidden, kind)
    copies = tape.bytes_(const=3 * HALF * kind.rank * (hidden + mlp))
    del active

    def backward(grad: list[Storage]) -> Grads:
        grad_down = _matmul(tape, hidden, mlp, kind)
        narrow = []
        for _ in range(3):
            narrow.append(_narrow_gradients(tape, hidden, mlp, kind))
            low = tape.bytes_(HALF * 2 * kind.rank)
            del low
        weight = _weight(tape, kind, hidden * mlp)
        result = tape.bytes_(HALF * hidden)
        del weight
        weight = _weight(tape, kind, hidden * mlp)
        del weight, grad_down
        grad.clear()
        _hand_over(tape, narrow)
        return (result,)

    return tape.make(out, hidden, HALF, (x,), (x.storage, gate, up, copies), backward)
