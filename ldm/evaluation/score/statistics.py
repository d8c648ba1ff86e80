"""How sure a ratio is, and whether two methods differ: both by prompts, since images of one prompt are alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 2000  # draws of a bootstrap or a permutation test


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


def estimate(hits: Array, totals: Array, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """sum(hits) / sum(totals) with the percentile bootstrap over prompts (Efron, 1979).

    Args:
        hits, totals: (prompts,) each.
        seed: of the resampling; the same seed gives the same interval.
    """
    hit, total = float(hits.sum()), float(totals.sum())
    if not total:
        return Estimate(hit, total, None, None, None)
    picked, _ = _draws(len(hits), resamples, seed)
    return Estimate(hit, total, hit / total, *_interval(_ratio(picked @ hits, picked @ totals)))


def compare(
    hits: tuple[Array, Array], totals: tuple[Array, Array], resamples: int = RESAMPLES, seed: int = 0
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
    table = np.stack([*hits, *totals])  # (4, prompts)
    picked, exchanged = _draws(table.shape[1], resamples, seed)
    whole = table.sum(1, keepdims=True)
    [observed] = _difference(whole)
    low, high = _interval(_difference(table @ picked.T))
    permuted = _difference(whole + (table[[1, 0, 3, 2]] - table) @ exchanged.T)
    as_large = np.abs(permuted) >= abs(observed) - 1e-12
    p = (1 + int(as_large.sum())) / (1 + resamples)
    return Difference(float(observed), low, high, p, table.shape[1])


@lru_cache(maxsize=4)
def _draws(count: int, resamples: int, seed: int) -> tuple[Array, Array]:
    """How often each prompt is drawn with replacement, and whether it is exchanged; (resamples, count) each."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, count, (resamples, count))
    picked = np.zeros((resamples, count))
    np.add.at(picked, (np.arange(resamples)[:, None], picks), 1)
    return picked, (rng.random((resamples, count)) < 0.5).astype(np.float64)


def _interval(values: Array) -> tuple[float, float]:
    """The 95% percentile interval of a bootstrap's values (resamples,); those that are not a number are left out."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def _difference(table: Array) -> Array:
    """First ratio less second, (N,), of the hits and then the totals of both, (4, N); nan where a total is 0.

    Rounded once, so that it is exact where all counts are whole numbers.
    """
    hits, other_hits, totals, other_totals = table
    return _ratio(hits * other_totals - other_hits * totals, totals * other_totals)


def _ratio(hits: Array, totals: Array) -> Array:
    return np.divide(hits, totals, out=np.full(hits.shape, np.nan), where=totals > 0)
