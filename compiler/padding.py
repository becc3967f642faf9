"""Tokens of a row as computed: padded to the longest of its micro-batch, or packed."""

from __future__ import annotations

import math
from functools import lru_cache

from compiler.values import DatasetFacts, Setup


def row_tokens(setup: Setup, dataset: DatasetFacts) -> tuple[float, float, float]:
    """(tokens computed, useful tokens, tokens attended to) of one row of a micro-batch."""
    length, mean = setup.sequence_len, max(1.0, min(dataset.mean_tokens, setup.sequence_len))
    spread = _spread(dataset.p99_tokens / max(1.0, dataset.mean_tokens))
    if setup.sample_packing:
        rows = length / mean
        # first-fit decreasing leaves little when many rows share a bin, and a fraction of a row when few do
        fill = 0.98 if rows >= 4 else max(min(0.98, math.floor(rows) * mean / length), 0.75) if spread else 1.0
        varlen = setup.attention in ("flash_attention_2", "flex_attention")
        return length, length * fill, min(length, mean * math.exp(spread**2)) if varlen else length
    # cut at the longest row there is, not at what the setup drops: leaving rows out is not counted as speed
    padded = min(float(length), _longest(setup.micro_batch, mean, spread, max(dataset.max_tokens, mean)))
    return padded, mean, padded


@lru_cache(maxsize=256)
def _spread(ratio: float) -> float:
    """Standard deviation of the log length, taking lengths as log-normal; `ratio`: 99th percentile over mean."""
    if ratio <= 1.0:
        return 0.0
    log = math.log(ratio)
    # mean = exp(mu + s^2/2), p99 = exp(mu + 2.326 s)  =>  s^2/2 - 2.326 s + log = 0, the smaller root
    return 2.326 - math.sqrt(max(0.0, 2.326**2 - 2 * log))


@lru_cache(maxsize=1024)
def _longest(rows: int, mean: float, spread: float, longest: float) -> float:
    """Expected length of the longest of `rows`, none longer than `longest`.

    The largest of n normals has about the mean of its plotting position and a variance of 1, 0.68, 0.49, 0.37, 0.30
    for n = 1, 2, 4, 8, 16 (Teichroew 1956); its exponential is taken as log-normal again, and cut at `longest`."""
    if rows == 1 or not spread:
        return mean
    wide = spread / math.sqrt(1 + 0.467 * math.log2(rows) ** 1.16)
    centre = math.log(mean) - spread**2 / 2 + _normal_quantile((rows - 0.35) / (rows + 0.3)) * spread
    cut = (math.log(longest) - centre) / wide
    whole = math.exp(centre + wide**2 / 2) * _below(cut - wide)
    return max(mean, whole + longest * _below(-cut))


def _below(z: float) -> float:
    """Share of a standard normal below z."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _normal_quantile(p: float) -> float:
    """Abramowitz and Stegun 26.2.23, error below 4.5e-4, for p >= 0.5."""
    t = math.sqrt(-2 * math.log(1 - p))
    return t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
