"""How a run's parameters are distributed: `histograms.npz` in its run directory.

For each parameter two arrays: `NAME/counts`, (bins,) whole numbers, and `NAME/edges`, (bins + 1,) the bins' borders in
the parameter's unit. NAME is the parameter's dotted name in the net, as `layers.1.weight`.
"""

import os
from collections.abc import Mapping

import numpy as np

from lithydra.run_dir import RunDir

Histogram = tuple[np.ndarray, np.ndarray]  # counts, edges


def write_histograms(run: RunDir, histograms: Mapping[str, Histogram]) -> None:
    """Write aside, then replace."""
    arrays = {}
    for name, (counts, edges) in histograms.items():
        arrays |= {f"{name}/counts": np.asarray(counts), f"{name}/edges": np.asarray(edges)}
    temporary = run.histograms.with_name(".histograms.npz")
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, run.histograms)


def read_histograms(run: RunDir) -> dict[str, Histogram]:
    """By parameter, in the file's order; empty where the run wrote none."""
    if not run.histograms.exists():
        return {}
    with np.load(run.histograms, allow_pickle=False) as file:
        names = [key.removesuffix("/counts") for key in file.files if key.endswith("/counts")]
        return {name: (file[f"{name}/counts"], file[f"{name}/edges"]) for name in names}


def standard_deviation(histogram: Histogram) -> float:
    """Of the values that were counted, each taken at its bin's middle."""
    counts, edges = histogram
    middles = (edges[:-1] + edges[1:]) / 2
    mean = np.average(middles, weights=counts)
    return float(np.sqrt(np.average((middles - mean) ** 2, weights=counts)))
