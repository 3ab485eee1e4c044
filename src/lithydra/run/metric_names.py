"""The names of metrics: `SPLIT/NAME` for classifiers, whatever a person's own LightningModule logs for others."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

SPLITS = ("val", "test", "train")
# Whether more or less is better, by the name behind the split; of a person's own metric they say so.
BETTER = {
    "acc": "max",
    "loss": "min",
    "macro_f1": "max",
    "precision": "max",
    "recall": "max",
    "top_k": "max",
    "auroc": "max",
    "cohen_kappa": "max",
    "calibration_error": "min",
    "robust_acc": "max",
}
WORDS = {"acc": "accuracy", "val": "validation", "train": "training"}


def parts(metric: str) -> tuple[str, str]:
    """Split and name of `val/acc` or, as many a LightningModule logs it, `val_acc`; no split where there is none."""
    for split in SPLITS:
        if metric[: len(split) + 1] in (f"{split}/", f"{split}_"):
            return split, metric[len(split) + 1 :]
    return "", metric


def better(metric: str) -> str | None:
    """max or min; None where only the person knows."""
    return BETTER.get(parts(metric)[1])


def ordered(metrics: Iterable[str]) -> list[str]:
    """Validation, test, training, others; of each accuracy, loss, and the rest."""
    names = list(BETTER)

    def place(metric: str) -> tuple[int, int, str]:
        split, name = parts(metric)
        return _index(SPLITS, split), _index(names, name), metric

    return sorted(dict.fromkeys(metrics), key=place)


def names_of(metrics: Iterable[str]) -> list[str]:
    """Those behind the splits: loss, accuracy, and the rest."""
    found = [parts(metric)[1] for metric in ordered(metrics)]
    return sorted(dict.fromkeys(found), key=lambda name: name != "loss")


def by_split(metrics: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Values by split (training, validation, test, none) and name, loss first."""
    found: dict[str, dict[str, T]] = {split: {} for split in ("train", "val", "test", "")}
    names = names_of(metrics)
    for metric in sorted(metrics, key=lambda metric: names.index(parts(metric)[1])):
        split, name = parts(metric)
        found[split][name] = metrics[metric]
    return {split: values for split, values in found.items() if values}


def words(metric: str) -> str:
    """`val/acc` as a person says it."""
    return " ".join(WORDS.get(part, part) for part in parts(metric) if part)


def _index(known: Iterable[str], name: str) -> int:
    known = list(known)
    return known.index(name) if name in known else len(known)
