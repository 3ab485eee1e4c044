"""Two runs on the same test images: which ones one gets right and the other wrong, and whether that is chance."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lithydra.callbacks.look_inside import as_image
from lithydra.data.loaders import EvaluationLoader
from lithydra.errors import ConfigError
from lithydra.run import plots
from lithydra.run.directory import RunDir
from lithydra.training.loading import load_classifier, load_data

BATCH_SIZE = 1000
COLUMNS, ROWS = 8, 2  # of images that are drawn of each kind


@dataclass(frozen=True)
class Answers:
    """What a run's classifier says of the test images, in their order: classes, how sure it is, and what they are."""

    predicted: Tensor  # (N,) int64
    probability: Tensor  # (N,) float32
    labels: Tensor  # (N,) int64
    names: list[str]
    images: Any  # the test split
    digest: bytes  # of its pixels
    checksums: dict[str, str]  # of what it was read from, as far as they are known

    def of_same_images(self, other: "Answers") -> bool:
        """By their pixels; where the runs have them in different sizes, by what they were read from."""
        if self.names != other.names or not torch.equal(self.labels, other.labels):
            return False
        same_size = self.images.image_shape == other.images.image_shape
        return self.digest == other.digest if same_size else self.checksums == other.checksums

    @property
    def right(self) -> Tensor:
        return self.predicted == self.labels


def compare_mistakes(
    runs: list[RunDir], names: list[str], data_dir: str, trust: list[str], path: Path
) -> dict[str, Any]:
    """Print how many test images both runs, one of them, or none gets right; draw some of those that divide them.

    Returns:
        These four numbers, the positions of the images that one alone gets right, and McNemar's `p`: how likely the
        two differ so much or more where both are equally good (McNemar, 1947; the exact form).

    Raises:
        ConfigError: There are not two runs, or they were tested on other images.
    """
    if len(runs) != 2:
        raise ConfigError(f"mistakes=true: compares two runs, and there are {len(runs)}")
    first, second = (_answers(run, data_dir, trust) for run in runs)
    if not first.of_same_images(second):
        raise ConfigError("mistakes=true: the two runs were not tested on the same images")
    from scipy.stats import binomtest

    only = [(first.right & ~second.right).nonzero().squeeze(1), (second.right & ~first.right).nonzero().squeeze(1)]
    both, none = int((first.right & second.right).sum()), int((~first.right & ~second.right).sum())
    divided = len(only[0]) + len(only[1])
    p = float(binomtest(len(only[0]), divided).pvalue) if divided else 1.0
    _show(names, both, [len(rows) for rows in only], none, p)
    if divided:
        _draw(only, [second, first], names, path)
        print(f"images         {path}")
    facts = {"both_right": both, "only_first": only[0].tolist(), "only_second": only[1].tolist(), "both_wrong": none}
    return {"mistakes": {**facts, "p": p, "picture": path if divided else None}}


def _answers(run: RunDir, data_dir: str, trust: list[str]) -> Answers:
    module = load_classifier(run.path, trust=trust)
    data = load_data(module.record, data_dir)
    digest, batches = hashlib.sha256(), []
    with torch.no_grad():
        for images, _ in EvaluationLoader(data.test, BATCH_SIZE):
            digest.update(images.numpy().tobytes())
            batches.append(module.probabilities(module(images)).max(1))
    probability, predicted = (torch.cat(parts) for parts in zip(*batches, strict=True))
    checksums = {key: value for key, value in data.fingerprint().items() if "test" in key}
    labels, names = data.test.own_labels, list(data.names)
    return Answers(predicted, probability, labels, names, data.test, digest.digest(), checksums)


def _show(names: list[str], both: int, only: list[int], none: int, p: float) -> None:
    count = both + sum(only) + none
    table = Table("", "images", title=f"The same {count:,} test images")
    table.columns[1].justify = "right"
    words = ("both are right", *(f"only {name} is right" for name in names), "both are wrong")
    for word, number in zip(words, (both, *only, none), strict=True):
        table.add_row(word, f"{number:,}")
    console = Console(highlight=False, markup=False)
    console.print(table)
    verdict = "more than chance" if p < 0.05 else "no more than chance may give"
    console.print(
        f"difference     {(only[0] - only[1]) / max(1, count):+.4f} in accuracy: {verdict} (McNemar, p = {p:.2g})"
    )


def _draw(only: list[Tensor], wrong: list[Answers], names: list[str], path: Path) -> None:
    """Of each kind some images, with what the run says that is wrong about them."""
    pictures: list[np.ndarray] = []
    for rows, answers, right, other in zip(only, wrong, names, names[::-1], strict=True):
        shown = rows[: COLUMNS * ROWS]
        if not len(shown):
            continue
        images, _ = next(answers.images.batches([shown]))
        guesses = [
            plots.Guess(
                as_image(image),
                answers.names[int(answers.predicted[row])],
                float(answers.probability[row]),
                answers.names[int(answers.labels[row])],
            )
            for row, image in zip(shown.tolist(), images, strict=True)
        ]
        title = f"Only {right} is right ({len(rows)}): what {other} says"
        pictures.append(plots.pixels(plots.guesses(guesses, title, COLUMNS)))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(pictures)).save(path)
