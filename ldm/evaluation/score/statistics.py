"""How sure a ratio is, and whether two methods differ: both by prompts, since images of one prompt are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A ratio with its counts and the 95% interval of its prompts resampled; None where nothing was counted."""

    hits: float
    total: float
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """The difference of two ratios over the same prompts, its 95% interval, and a p-value."""

    value: float
    low: float
    high: float
    p: float
    prompts: int


def resampled(count: int, resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Numbers of prompts drawn with replacement, (resamples, count)."""
    return rng.integers(0, count, (resamples, count))


def interval(values: Array) -> tuple[float, float]:
    """The 95% percentile interval of a bootstrap's values (resamples,); those that are not a number are left out."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def estimate(hits: Array, totals: Array, resamples: int = 2000, seed: int = 0) -> Estimate:
    """sum(hits) / sum(totals) with the percentile bootstrap over prompts (Efron, 1979).

    Args:
        hits, totals: (prompts,) each.
        seed: of the resampling; the same seed gives the same interval.
    """
    hit, total = float(hits.sum()), float(totals.sum())
    if not total:
        return Estimate(hit, total, None, None, None)
    picks = resampled(len(hits), resamples, np.random.default_rng(seed))
    return Estimate(hit, total, hit / total, *interval(_ratio(hits[picks].sum(1), totals[picks].sum(1))))


def compare(
    hits: tuple[Array, Array], totals: tuple[Array, Array], resamples: int = 2000, seed: int = 0
) -> Difference | None:
    """First ratio less second, over the same prompts; None where one of them counted nothing.

    The interval is the percentile bootstrap of prompts, drawn together for both. The p-value is that of the paired
    permutation test (Fisher, 1935): under the null hypothesis the two methods' counts of a prompt may change places;
    p is the share of such exchanges, the observed one included, whose difference is at least as large.

    Args:
        hits, totals: of the first and of the second method, (prompts,) each, in the same order.
    """
    if not len(hits[0]) or not totals[0].sum() or not totals[1].sum():
        return None
    rng = np.random.default_rng(seed)
    count = len(hits[0])
    observed = float(hits[0].sum() / totals[0].sum() - hits[1].sum() / totals[1].sum())
    picks = resampled(count, resamples, rng)
    drawn = [_ratio(h[picks].sum(1), t[picks].sum(1)) for h, t in zip(hits, totals, strict=True)]
    low, high = interval(drawn[0] - drawn[1])
    exchange = rng.random((resamples, count)) < 0.5  # (resamples, prompts)
    sides = [
        _ratio(np.where(exchange, hits[1 - k], hits[k]).sum(1), np.where(exchange, totals[1 - k], totals[k]).sum(1))
        for k in (0, 1)
    ]
    as_large = np.abs(sides[0] - sides[1]) >= abs(observed) - 1e-12
    p = (1 + int(as_large.sum())) / (1 + resamples)
    return Difference(observed, low, high, p, count)


def _ratio(hits: Array, totals: Array) -> Array:
    return np.divide(hits, totals, out=np.full(hits.shape, np.nan), where=totals > 0)
