"""The names of metrics: `SPLIT/NAME` for classifiers, whatever a person's own LightningModule logs for others."""

from collections.abc import Iterable

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


def better(metric: str) -> str | None:
    """max or min; None where only the person knows."""
    return BETTER.get(metric.rpartition("/")[2])


def ordered(metrics: Iterable[str]) -> list[str]:
    """Validation, test, training, others; of each accuracy, loss, and the rest."""
    names = list(BETTER)

    def place(metric: str) -> tuple[int, int, str]:
        split, _, name = metric.rpartition("/")
        return _index(SPLITS, split), _index(names, name), metric

    return sorted(dict.fromkeys(metrics), key=place)


def names_of(metrics: Iterable[str]) -> list[str]:
    """Those behind the splits: loss, accuracy, and the rest."""
    found = [metric.rpartition("/")[2] for metric in ordered(metrics) if metric.rpartition("/")[0] in SPLITS]
    return sorted(dict.fromkeys(found), key=lambda name: name != "loss")


def words(metric: str) -> str:
    """`val/acc` as a person says it."""
    return " ".join(WORDS.get(part, part) for part in metric.split("/"))


def _index(known: Iterable[str], name: str) -> int:
    known = list(known)
    return known.index(name) if name in known else len(known)
