"""class_scores.csv: how well a run tells each class, on the test images."""

from collections.abc import Sequence

import numpy as np

from lithydra.files import read_rows, write_rows
from lithydra.run.directory import RunDir

COLUMNS = ("class", "precision", "recall", "f1", "images", "most_often_taken_for")
TEXT = ("class", "most_often_taken_for")


def write(run: RunDir, counts: np.ndarray, names: Sequence[str]) -> None:
    """From counts (true class, predicted class). What divides by no image is 0."""
    right, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    precision, recall = right / np.maximum(predicted, 1), right / np.maximum(true, 1)
    f1 = 2 * right / np.maximum(true + predicted, 1)
    mistakes = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    rows = [
        {
            "class": name,
            **{
                column: f"{values[i]:.4f}" for column, values in zip(COLUMNS[1:4], (precision, recall, f1), strict=True)
            },
            "images": true[i],
            "most_often_taken_for": f"{names[mistakes[i].argmax()]} ({mistakes[i].max()})" if mistakes[i].any() else "",
        }
        for i, name in enumerate(names)
    ]
    write_rows(run.class_scores, COLUMNS, rows)


def read(run: RunDir) -> list[dict[str, str]]:
    """A row a class; empty where nothing was tested."""
    return read_rows(run.class_scores, COLUMNS, text=TEXT)
