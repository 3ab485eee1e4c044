"""histograms.npz: how parameters, gradients and activations of a run are distributed, epoch by epoch.

For each name, `parameter/head.weight` for instance, the file has three arrays: NAME/epochs (E,) int64, NAME/counts
(E, bins) int64 and NAME/edges (E, bins + 1) float32, a row for each epoch; 0 is before training.
"""

import io
import logging
from typing import NamedTuple

import numpy as np

from lithydra.errors import ConfigError
from lithydra.files import write_bytes
from lithydra.run.directory import RunDir

log = logging.getLogger(__name__)

PARAMETER = "parameter/"
PARTS = ("epochs", "counts", "edges")


class Histogram(NamedTuple):
    """`counts` (bins,) int64 between `edges` (bins + 1,) float32."""

    counts: np.ndarray
    edges: np.ndarray


def add_histograms(run: RunDir, epoch: int, histograms: dict[str, Histogram]) -> None:
    """Write those of an epoch; what the file held of later epochs is dropped."""
    try:
        arrays = histogram_arrays(run)
    except ConfigError as error:
        log.warning("%s; it begins anew", error)
        arrays = {}
    for name, histogram in histograms.items():
        row = dict(zip(PARTS, (np.array(epoch), *histogram), strict=True))
        kept = arrays[f"{name}/epochs"] < epoch if f"{name}/epochs" in arrays else None
        for part, value in row.items():
            before = arrays[f"{name}/{part}"][kept] if kept is not None else value[None][:0]
            arrays[f"{name}/{part}"] = np.concatenate([before, value[None]])
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_bytes(run.histograms, content.getvalue())


def histogram_arrays(run: RunDir) -> dict[str, np.ndarray]:
    """What the file holds; empty where there is none. Raises ConfigError where it is damaged."""
    if not run.histograms.exists():
        return {}
    try:
        with np.load(io.BytesIO(run.histograms.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # numpy, zipfile and zlib each have errors of their own
        raise ConfigError(f"{run.histograms}: damaged ({error})") from error
    for name in {key.rpartition("/")[0] for key in arrays}:
        shapes = [arrays[key].shape if (key := f"{name}/{part}") in arrays else () for part in PARTS]
        if not (all(shapes) and _fit(*shapes)):
            raise ConfigError(f"{run.histograms}: damaged ({name or next(iter(arrays))} is not whole)")
    return arrays


def _fit(epochs: tuple[int, ...], counts: tuple[int, ...], edges: tuple[int, ...]) -> bool:
    """Whether the shapes are (E,), (E, bins) and (E, bins + 1)."""
    return len(epochs) == 1 and len(counts) == 2 and counts[0] == epochs[0] > 0 and edges == (*epochs, counts[1] + 1)


def last_parameters(run: RunDir) -> dict[str, Histogram]:
    """By parameter, after the last epoch; empty where the run wrote none."""
    arrays = histogram_arrays(run)
    names = [key.removesuffix("/counts") for key in arrays if key.startswith(PARAMETER) and key.endswith("/counts")]
    return {
        name.removeprefix(PARAMETER): Histogram(arrays[f"{name}/counts"][-1], arrays[f"{name}/edges"][-1])
        for name in names
    }


def standard_deviation(histogram: Histogram) -> float:
    """Of the values that were counted, each taken at its bin's middle."""
    middles = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    mean = np.average(middles, weights=histogram.counts)
    return float(np.sqrt(np.average((middles - mean) ** 2, weights=histogram.counts)))


def bound(histogram: Histogram, share: float = 0.99) -> float:
    """The distance from 0 that this share of the values is within, to a bin's outer edge."""
    counts, edges = histogram
    distances = np.maximum(np.abs(edges[:-1]), np.abs(edges[1:]))
    order = np.argsort(distances)
    reached = np.searchsorted(np.cumsum(counts[order]), share * counts.sum())
    return float(distances[order][min(reached, len(order) - 1)])
