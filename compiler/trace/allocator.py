"""PyTorch's CUDA caching allocator, replayed over a log of births and deaths.

One stream, default settings (c10/cuda/CUDACachingAllocator.cpp): requests up to 1 MiB come from 2 MiB segments, up
to 10 MiB from 20 MiB segments, larger ones from segments of whole 2 MiB; best fit; a large block is split only when
more than 1 MiB is left; free neighbours merge; a segment goes back to the driver only when memory would run out.

With `expandable_segments:True` small and large requests have one segment each, which grows at its end by pages of
2 and 20 MiB: whatever is freed merges with its neighbours, so much less is left over.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SMALL_BYTES = 1 << 20
SMALL_SEGMENT_BYTES = 2 << 20
LARGE_BYTES = 10 << 20
LARGE_SEGMENT_BYTES = 20 << 20
ROUND_BYTES = 2 << 20
MIN_SMALL_REST_BYTES = 512
PAGE_BYTES = {True: 2 << 20, False: 20 << 20}
"""By how much an expandable segment grows at least: for requests up to 1 MiB, and above."""


@dataclass(slots=True, eq=False)
class _Block:
    serial: int
    size: int
    small: bool
    free: bool = False
    before: _Block | None = None
    after: _Block | None = None


class _Pool:
    """Free blocks by size; of equal sizes the older first."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, _Block]] = []

    def put(self, block: _Block) -> None:
        block.free = True
        bisect.insort(self.entries, (block.size, block.serial, block), key=lambda entry: entry[:2])

    def take(self, size: int, last: _Block | None = None) -> _Block | None:
        """The smallest free block of at least `size` bytes; `last`, which can grow, only where no other is large
        enough."""
        index = bisect.bisect_left(self.entries, (size, -1), key=lambda entry: entry[:2])
        if index < len(self.entries) - 1 and self.entries[index][2] is last:
            index += 1
        return self.entries.pop(index)[2] if index < len(self.entries) else None

    def remove(self, block: _Block) -> None:
        del self.entries[bisect.bisect_left(self.entries, (block.size, block.serial), key=lambda entry: entry[:2])]


def replay(events: Iterable[tuple[int, int]], capacity_bytes: int | None = None) -> tuple[int, int]:
    """(peak reserved bytes, peak allocated bytes). Allocated counts whole blocks, as `max_memory_allocated` does.

    `events` are (storage number, +bytes or -bytes). With `capacity_bytes`, wholly free segments are returned before
    a new one would exceed it.
    """
    pools = {True: _Pool(), False: _Pool()}
    blocks: dict[int, _Block] = {}
    serials = itertools.count()
    reserved = allocated = reserved_peak = allocated_peak = 0
    for number, size in events:
        if size > 0:
            small = size <= SMALL_BYTES
            block = pools[small].take(size)
            if block is None:
                segment = _segment_bytes(size)
                if capacity_bytes is not None and reserved + segment > capacity_bytes:
                    reserved -= _release_free_segments(pools)
                reserved += segment
                reserved_peak = max(reserved_peak, reserved)
                block = _Block(next(serials), segment, small)
            _split(block, size, pools[small], serials)
            blocks[number] = block
            allocated += block.size
            allocated_peak = max(allocated_peak, allocated)
        elif number in blocks:
            block = blocks.pop(number)
            allocated -= block.size
            _merge(block, pools[block.small])
    return reserved_peak, allocated_peak


def replay_expandable(events: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """`replay` with `expandable_segments:True`, which Axolotl 0.19 asks for (`utils/__init__.py`,
    `set_pytorch_cuda_alloc_conf`): a free block that reaches the end of what is mapped counts as if it had no end, so
    others come first; what fits nowhere makes the segment longer. Pages go back only when memory would run out."""
    pools = {True: _Pool(), False: _Pool()}
    ends: dict[bool, _Block | None] = {True: None, False: None}
    blocks: dict[int, _Block] = {}
    reserved = allocated = allocated_peak = 0
    for number, size in events:
        if size > 0:
            small = size <= SMALL_BYTES
            pool, end = pools[small], ends[small]
            block = pool.take(size, end)
            if block is None:
                have = end.size if end is not None and end.free else 0
                more = -(-(size - have) // PAGE_BYTES[small]) * PAGE_BYTES[small]
                reserved += more
                block = ends[small] = _lengthen(end, more, pool, small)
            _split(block, size, pool, iter((block.serial + size,)), MIN_SMALL_REST_BYTES - 1)
            if block is ends[small] and block.after is not None:
                ends[small] = block.after
            blocks[number] = block
            allocated += block.size
            allocated_peak = max(allocated_peak, allocated)
        elif number in blocks:
            block = blocks.pop(number)
            allocated -= block.size
            before, after = block.before, block.after
            if before is not None and before.free:
                block.serial = before.serial  # here a block's address
            if after is ends[block.small] and after is not None and after.free:
                ends[block.small] = block
            _merge(block, pools[block.small])
    return reserved, allocated_peak


def _lengthen(end: _Block | None, more: int, pool: _Pool, small: bool) -> _Block:
    """The segment's last block where it is free, or a new one behind it, `more` bytes longer."""
    if end is not None and end.free:
        pool.remove(end)
        end.size += more
        return end
    block = _Block(0 if end is None else end.serial + end.size, more, small, before=end)
    if end is not None:
        end.after = block
    return block


def _segment_bytes(size: int) -> int:
    if size <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    return LARGE_SEGMENT_BYTES if size < LARGE_BYTES else -(-size // ROUND_BYTES) * ROUND_BYTES


def _split(block: _Block, size: int, pool: _Pool, serials: Iterator[int], keep: int = SMALL_BYTES) -> None:
    """`keep`: a large block keeps a rest of so many bytes."""
    block.free = False
    rest = block.size - size
    if rest < MIN_SMALL_REST_BYTES if block.small else rest <= keep:
        return
    remainder = _Block(next(serials), rest, block.small, before=block, after=block.after)
    if block.after is not None:
        block.after.before = remainder
    block.size, block.after = size, remainder
    pool.put(remainder)


def _merge(block: _Block, pool: _Pool) -> None:
    before, after = block.before, block.after
    if before is not None and before.free:
        pool.remove(before)
        block.size, block.before = block.size + before.size, before.before
        if block.before is not None:
            block.before.after = block
    if after is not None and after.free:
        pool.remove(after)
        block.size, block.after = block.size + after.size, after.after
        if block.after is not None:
            block.after.before = block
    pool.put(block)


def _release_free_segments(pools: dict[bool, _Pool]) -> int:
    released = 0
    for pool in pools.values():
        whole = [entry for entry in pool.entries if entry[2].before is None and entry[2].after is None]
        pool.entries = [entry for entry in pool.entries if entry not in whole]
        released += sum(entry[0] for entry in whole)
    return released
