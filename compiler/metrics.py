"""How near an answer is to the reference: pure functions over text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

WORD = re.compile(r"[\w.+/-]*\w", re.UNICODE)
"""A word keeps what technical names are made of: `torch.xpu`, `2.13.0`, `--fp8`, `C++` count as one word each."""
ARTICLES = {"a", "an", "the"}


def words(text: str) -> list[str]:
    """Lower-case words without articles.

    >>> words("The `torch.xpu` device, version 2.13.0.")
    ['torch.xpu', 'device', 'version', '2.13.0']
    """
    return [word for word in WORD.findall(text.lower()) if word not in ARTICLES]


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over words, as SQuAD scores answers (Rajpurkar et al. 2016); 0 to 1.

    >>> round(token_f1("it uses gloo", "DeepSpeed uses gloo on a CPU"), 2)
    0.5
    """
    ours, theirs = Counter(words(answer)), Counter(words(reference))
    common = sum((ours & theirs).values())
    if not common:
        return 0.0
    precision, recall = common / sum(ours.values()), common / sum(theirs.values())
    return 2 * precision * recall / (precision + recall)


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    """Cosine of two vectors; 0 where one of them is zero.

    >>> cosine([1.0, 0.0], [2.0, 0.0])
    1.0
    """
    norm = math.sqrt(sum(x * x for x in left) * sum(y * y for y in right))
    return sum(x * y for x, y in zip(left, right, strict=True)) / norm if norm else 0.0


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
