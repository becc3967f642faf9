"""A symbolic autograd: runs a piece of a model on tensor sizes alone and notes every moment at which memory is highest.

A size is (const, per token, per token and length, per chunk row) in bytes, so one run holds for every micro-batch
and sequence length. Tensors die when Python drops them, nodes keep what autograd would save, gradients that meet are
added into a third tensor: the rules are torch's, and `recipe verify` holds the result against torch itself.

One run holds for the first micro-step, whose gradients stay, and for later ones, whose gradients are added to those
and die: every moment notes how many of its bytes are gradients that a later micro-step would have let go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

Size = tuple[float, float, float, float]
ZERO: Size = (0.0, 0.0, 0.0, 0.0)
Moment = tuple[Size, str]
"""Live bytes, and the phase in which they were first seen."""


class Storage:
    """Bytes that count while the object lives."""

    __slots__ = ("__weakref__", "size", "tape")

    def __init__(self, tape: Tape, size: Size) -> None:
        self.tape, self.size = tape, size
        const, token, length, row = tape.live
        tape.live = live = (const + size[0], token + size[1], length + size[2], row + size[3])
        moments, key = tape.moments, (live, tape.released)
        tape.anew = key not in moments
        if tape.anew:
            moments[key] = tape.phase

    def __del__(self) -> None:
        tape, size = self.tape, self.size
        const, token, length, row = tape.live
        tape.live = (const - size[0], token - size[1], length - size[2], row - size[3])


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

    def __init__(self, recording: bool = True, autocast: bool = True) -> None:
        self.recording = recording
        """False: as under `torch.no_grad`, nothing is kept for backward."""
        self.autocast = autocast
        """Whether linears and attention compute in two bytes whatever they are given."""
        self.live = ZERO
        self.moments: dict[tuple[Size, float], str] = {}
        """(Live bytes, released gradients) of every allocation -> phase, in the order in which they were first seen."""
        self.nodes: list[Node] = []
        self.kept: list[Storage] = []
        """Gradients of parameters: they stay after the run."""
        self.gradients = 0.0
        """Bytes of `kept`."""
        self.released = 0.0
        """Of them, bytes that are gone already where they are added to gradients of an earlier micro-step."""
        self.anew = False
        """Whether the last allocation made a moment that was not seen before."""
        self.phase = "forward"
        self.saved_at = 0
        """Moments seen when something was last saved: a recomputation stops there (torch's early stop)."""

    def keep(self, gradient: Storage) -> None:
        """The gradient of a parameter is done. A later micro-step lets it go with the node that made it, or at
        `release`."""
        self.kept.append(gradient)
        self.gradients += gradient.size[0]

    def release(self) -> None:
        self.released = self.gradients

    def seen(self, later: bool = False) -> list[Moment]:
        """The moments of the first micro-step, or of a `later` one, without those that repeat an earlier one."""
        first: dict[Size, str] = {}
        for ((const, token, length, row), released), phase in self.moments.items():
            first.setdefault((const - released if later else const, token, length, row), phase)
        return list(first.items())

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
            # the result of the last one that saves is never made again; where it was as high before, that was needed
            self.saved_at = len(self.moments) - self.anew
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
            self.release()
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


def highest(moments: Iterable[Moment]) -> list[Moment]:
    """The moments that no other one exceeds in every coefficient; nearly equal ones are folded into the larger."""
    kept: list[Moment] = []
    for moment in sorted(moments, key=lambda one: -sum(one[0])):
        const, token, length, row = moment[0]
        for (other_const, other_token, other_length, other_row), _ in kept:
            if (
                other_token + 1e-6 >= token
                and other_const + 1e-6 >= const
                and other_length + 1e-6 >= length
                and other_row + 1e-6 >= row
            ):
                break
        else:
            kept.append(moment)
    return kept
