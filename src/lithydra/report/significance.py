"""Tests of whether a difference is more than chance, along the last axis of arrays. docs/studies.md says when which.

Each keeps its level whatever the number of values: of differences that are chance alone, at most 5 % have p < 0.05.
"""

import math

import numpy as np
from scipy.special import stdtr

LEVEL = 0.05
SAME = 1e-9  # values whose spread is below this share of their mean differ by rounding


def paired(differences: np.ndarray, overlap: float = 0.0) -> np.ndarray:
    """Two-sided p values of Student's t test that the mean of (..., n) differences is 0, n at least 2.

    Args:
        overlap: Of folds, which share most of their training images: test images over training images (Nadeau and
            Bengio, 2003, Inference for the generalization error, section 3).
    """
    n = differences.shape[-1]
    mean, std = differences.mean(-1), differences.std(-1, ddof=1)
    # Values that do not vary leave t undefined; that n signs agree by chance has this probability.
    return _p(mean, std * math.sqrt(1 / n + overlap), n - 1, alike=2.0 ** (1 - n))


def unpaired(mine: np.ndarray, theirs: np.ndarray, overlap: float = 0.0) -> np.ndarray:
    """Of Welch's t test that two means are equal, with the degrees of freedom of the smaller sample.

    Welch's own estimate of these decides 10 % of chance differences of 2 values and 10; this one never more than 5 %.
    """
    sizes = mine.shape[-1], theirs.shape[-1]
    variances = (side.var(-1, ddof=1) * (1 / side.shape[-1] + overlap) for side in (mine, theirs))
    difference = mine.mean(-1) - theirs.mean(-1)
    return _p(difference, np.sqrt(sum(variances)), min(sizes) - 1, alike=2 / math.comb(sum(sizes), min(sizes)))


def _p(difference: np.ndarray, error: np.ndarray, freedom: int, alike: float) -> np.ndarray:
    flat = error <= SAME * np.abs(difference)
    t = np.abs(difference) / np.where(flat, 1.0, error)
    return np.where(flat, np.where(difference == 0, 1.0, alike), 2 * stdtr(freedom, -t))


def holm(p: np.ndarray) -> np.ndarray:
    """p values (..., m) corrected for their number, so that one below a level is wrong that seldom among all m.

    Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    order = np.argsort(p, axis=-1)
    m = p.shape[-1]
    steps = np.take_along_axis(p, order, -1) * np.arange(m, 0, -1)
    corrected = np.empty_like(p, dtype=float)
    np.put_along_axis(corrected, order, np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0), -1)
    return corrected
