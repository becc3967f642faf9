"""The peak as the largest of a few lines: each is a moment of the step, its bytes linear in the tokens of a
micro-batch.

A line's bytes are `const + per_token * tokens + per_token_length * tokens * sequence_len + per_chunk_row * rows`,
where `rows` is Liger's chunk of the logits; `per_batched_token` counts when the micro-batch is above 1. All
coefficients are >= 0, so a peak never shrinks when micro-batch or sequence length grow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Term(NamedTuple):
    """A named share of a line."""

    name: str
    how: str
    """Formula in words."""
    const: float = 0.0
    per_token: float = 0.0
    per_token_length: float = 0.0
    """Times tokens x sequence length: attention scores kept whole (`eager`)."""
    per_chunk_row: float = 0.0
    per_batched_token: float = 0.0
    """Per token when the micro-batch is above 1."""

    def bytes_at(self, tokens: int, sequence_len: int, rows: int) -> float:
        per_token = self.per_token + self.per_token_length * sequence_len
        if tokens > sequence_len:
            per_token += self.per_batched_token
        return self.const + per_token * tokens + self.per_chunk_row * rows


Numbers = tuple[float, float, float, float, float]
"""What a line adds up to: const, per_token, per_token_length, per_chunk_row, per_batched_token. A plain tuple of
numbers, which the garbage collector stops walking over: the search keeps thousands of them."""


def numbers_at(numbers: Numbers, tokens: int, sequence_len: int, rows: int) -> float:
    """Bytes of a line with `tokens` tokens in a micro-batch and `rows` rows in a chunk of logits."""
    const, per_token, per_token_length, per_chunk_row, per_batched_token = numbers
    per_token += per_token_length * sequence_len
    if tokens > sequence_len:
        per_token += per_batched_token
    return const + per_token * tokens + per_chunk_row * rows


class Line(NamedTuple):
    """One moment of the step and what is alive then; or what several moments have in common."""

    phase: str
    terms: tuple[Term, ...]
    const: float
    per_token: float
    per_token_length: float
    per_chunk_row: float
    per_batched_token: float

    @property
    def numbers(self) -> Numbers:
        return tuple(self[2:])

    def bytes_at(self, tokens: int, sequence_len: int, rows: int) -> float:
        return numbers_at(self.numbers, tokens, sequence_len, rows)


NOTHING = Line("", (), 0.0, 0.0, 0.0, 0.0, 0.0)


def line(phase: str, terms: Iterable[Term], onto: Line = NOTHING) -> Line:
    """`terms` on top of those of `onto`, which are added up already."""
    more = tuple(terms)
    _, held, const, token, length, row, batched = onto
    for _, _, term_const, term_token, term_length, term_row, term_batched in more:
        const += term_const
        token += term_token
        length += term_length
        row += term_row
        batched += term_batched
    return Line(phase, held + more, const, token, length, row, batched)


def chunk_rows(tokens: int, vocab_size: int, hidden_size: int) -> int:
    """Rows of logits that Liger's fused linear cross-entropy holds at once (liger_kernel 0.8,
    `fused_linear_cross_entropy.py`): the next power of two of tokens / ceil(vocabulary / hidden), but not more than
    there are tokens."""
    wanted = -(-tokens // -(-vocab_size // hidden_size))
    return min(1 << (wanted - 1).bit_length(), tokens)
