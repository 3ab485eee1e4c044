"""How a run's parameters are distributed, from its histograms.npz, which `RunDir.add_histograms` writes."""

import numpy as np

from lithydra.errors import ConfigError
from lithydra.run.directory import RunDir

Histogram = tuple[np.ndarray, np.ndarray]  # counts, edges
KIND = "parameter/"


def read_histograms(run: RunDir) -> dict[str, Histogram]:
    """By parameter, after the last epoch; empty where the run wrote none."""
    arrays = run.histogram_arrays()
    names = [key.removesuffix("/counts") for key in arrays if key.startswith(KIND) and key.endswith("/counts")]
    if not {f"{name}/edges" for name in names} <= arrays.keys():
        raise ConfigError(f"{run.histograms}: damaged (not histograms)")
    found = {name[len(KIND) :]: (arrays[f"{name}/counts"][-1], arrays[f"{name}/edges"][-1]) for name in names}
    if any(counts.ndim != 1 or edges.shape != (len(counts) + 1,) for counts, edges in found.values()):
        raise ConfigError(f"{run.histograms}: damaged (not histograms)")
    return found


def standard_deviation(histogram: Histogram) -> float:
    """Of the values that were counted, each taken at its bin's middle."""
    counts, edges = histogram
    middles = (edges[:-1] + edges[1:]) / 2
    mean = np.average(middles, weights=counts)
    return float(np.sqrt(np.average((middles - mean) ** 2, weights=counts)))


def bound(histogram: Histogram, share: float = 0.99) -> float:
    """The distance from 0 that this share of the values is within, to a bin's outer edge."""
    counts, edges = histogram
    distances = np.maximum(np.abs(edges[:-1]), np.abs(edges[1:]))
    order = np.argsort(distances)
    reached = np.searchsorted(np.cumsum(counts[order]), share * counts.sum())
    return float(distances[order][min(reached, len(order) - 1)])
