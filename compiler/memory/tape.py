"""A symbolic autograd: runs a piece of a model on tensor sizes alone and notes every moment at which memory is highest.

A size is (const, per token, per token and length, per chunk row) in bytes, so one run holds for every micro-batch
and sequence length. Tensors die when Python drops them, nodes keep what autograd would save, gradients that meet are
added into a third tensor: the rules are torch's, and `recipe verify` holds the result against torch itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Size = tuple[float, float, float, float]
ZERO: Size = (0.0, 0.0, 0.0, 0.0)


class Storage:
    """Bytes that count while the object lives."""

    __slots__ = ("size", "tape")

    def __init__(self, tape: Tape, size: Size) -> None:
        self.tape, self.size = tape, size
        tape.change(size, 1)

    def __del__(self) -> None:
        self.tape.change(self.size, -1)


Grads = Sequence["Storage | None"]


class Node:
    """One differentiable operation. `backward` gets a list holding its gradient, so that it can drop it early."""

    __slots__ = ("backward", "inputs", "saved")

    def __init__(
        self, inputs: Sequence[Tensor], saved: Sequence[Storage], backward: Callable[[list[Storage]], Grads]
    ) -> None:
        self.inputs, self.saved, self.backward = [tensor.node for tensor in inputs], list(saved), backward


class Tensor:
    """`elements` per token (or per token and length, or per chunk row) of `width` bytes; views share the storage."""

    __slots__ = ("elements", "node", "storage", "width")

    def __init__(self, storage: Storage, elements: float, width: int, node: Node | None) -> None:
        self.storage, self.elements, self.width, self.node = storage, elements, width, node

    def view(self, elements: float | None = None) -> Tensor:
        return Tensor(self.storage, self.elements if elements is None else elements, self.width, self.node)


class Tape:
    """Live bytes, the moments seen, and the nodes in order of their making."""

    def __init__(self, recording: bool = True) -> None:
        self.recording = recording
        """False: as under `torch.no_grad`, nothing is kept for backward."""
        self.live = [0.0, 0.0, 0.0, 0.0]
        self.moments: dict[Size, str] = {}
        self.nodes: list[Node] = []
        self.kept: list[Storage] = []
        """Gradients of parameters: they stay after the run."""
        self.phase = "forward"
        self.saved_at = 0
        """Moments seen when something was last saved: a recomputation stops there (torch's early stop)."""

    def forget_after_last_save(self) -> None:
        for moment in list(self.moments)[self.saved_at :]:
            del self.moments[moment]

    def change(self, size: Size, sign: int) -> None:
        live = self.live
        live[0] += sign * size[0]
        live[1] += sign * size[1]
        live[2] += sign * size[2]
        live[3] += sign * size[3]
        if sign > 0:
            self.moments.setdefault(tuple(live), self.phase)

    def bytes_(
        self, per_token: float = 0.0, const: float = 0.0, per_length: float = 0.0, per_row: float = 0.0
    ) -> Storage:
        return Storage(self, (const, per_token, per_length, per_row))

    def leaf(self, elements: float, width: int) -> Tensor:
        """An input that wants a gradient and whose own bytes are counted elsewhere."""
        node = Node((), (), lambda grad: ())
        self.nodes.append(node)
        return Tensor(Storage(self, ZERO), elements, width, node)

    def make(
        self,
        storage: Storage,
        elements: float,
        width: int,
        inputs: Sequence[Tensor],
        saved: Sequence[Storage],
        backward: Callable[[list[Storage]], Grads],
    ) -> Tensor:
        if not self.recording:
            return Tensor(storage, elements, width, None)
        node = Node(inputs, saved, backward)
        self.nodes.append(node)
        if saved:
            self.saved_at = len(self.moments) - 1  # the result of the last one that saves is never made again
        return Tensor(storage, elements, width, node)

    def backward(self, root: Node | None, grad: list[Storage]) -> None:
        """Run the nodes in reverse. `grad` holds the gradient of what `root` made; it is emptied, so that nobody
        else counts it."""
        self.phase = "backward"
        pending: dict[int, Storage] = {id(root): grad.pop()}
        while self.nodes:
            node = self.nodes.pop()
            if id(node) not in pending:
                continue
            held = [pending.pop(id(node))]
            results = list(node.backward(held))
            held.clear()
            node.saved.clear()
            results.reverse()
            for target in node.inputs:
                result = results.pop() if results else None
                if target is None or result is None:
                    continue
                other = pending.get(id(target))
                if other is not None:
                    result = Storage(self, other.size if sum(other.size) >= sum(result.size) else result.size)
                pending[id(target)] = result
                del other, result


def highest(moments: dict[Size, str]) -> list[tuple[Size, str]]:
    """The moments that no other one exceeds in every coefficient; nearly equal ones are folded into the larger."""
    ordered = sorted(moments.items(), key=lambda item: -sum(item[0]))
    kept: list[tuple[Size, str]] = []
    for size, phase in ordered:
        if not any(all(a + 1e-6 >= b for a, b in zip(other, size, strict=True)) for other, _ in kept):
            kept.append((size, phase))
    return kept
