"""A trained model from its checkpoint alone, without config files or data; and the data that it was trained on."""

import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig

from lithydra.data.base import ImageDataModule
from lithydra.errors import ConfigError
from lithydra.run.checkpoints import DamagedCheckpoint, evaluated_state
from lithydra.run.checkpoints import load as load_checkpoint
from lithydra.run.directory import RunDir
from lithydra.run.trust import trusted
from lithydra.training import classifiers, own_data, own_module, own_runs
from lithydra.training.classifier import Classifier
from lithydra.training.instantiate import make

log = logging.getLogger(__name__)


def load(
    run_or_checkpoint: str | Path,
    checkpoint: str = "best",
    device: str | torch.device = "cpu",
    trust: Iterable[str] = (),
    weights: str = "averaged",
    tta: str | None = None,
) -> Classifier:
    """What a run trained, in evaluation mode: its classifier, or a LightningModule of a person's own.

    `requires_grad_(True)` makes it one to train. Of a classifier:

    It maps raw images (B, C, H, W), uint8 or float in [0, 1], to logits; `probabilities(logits)` are its softmax.
    `record["data"]` holds `class_names` and `image_shape`, `record["config"]` the run's config.

    Args:
        run_or_checkpoint: A run directory, or a checkpoint file.
        checkpoint: Of a run directory: best (the last where nothing was validated), last or previous.
        trust: Packages that the checkpoint may name classes of, beside lithydra, torch and what conf/ names.
        weights: averaged, where the run has an average, or trained.
        tta: Test-time views of an image: none, flip or flip_shift; None: those of the run.

    Raises:
        LithydraError: There is no such run or checkpoint, it is damaged, or it names code of someone else's.
    """
    return load_with_record(run_or_checkpoint, checkpoint, device, trust, weights, tta)[0]


def load_with_record(
    run_or_checkpoint: str | Path,
    checkpoint: str = "best",
    device: str | torch.device = "cpu",
    trust: Iterable[str] = (),
    weights: str = "averaged",
    tta: str | None = None,
    *,
    to_evaluate: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """`load`, and the checkpoint's record, which a module of a person's own does not have.

    Args:
        to_evaluate: With what the method itself needs to measure, as a part of its own that was trained with the net.
    """
    content, config, _ = stored(run_or_checkpoint, checkpoint, trust)
    record = content["record"]
    facts = record["data"]
    if tta is not None:
        config.tta = tta
    if config.get("module"):
        if tta not in (None, "none"):
            raise ConfigError(f"tta={tta}: averages logits of lithydra's nets; a module of one's own has its own step")
        own = own_module.module_like(config, facts)
        own.load_state_dict(content["state_dict"])
        return own.to(device).eval().requires_grad_(False), record
    load_other = partial(load_classifier, trust=trust) if to_evaluate else None
    module = classifiers.like(config, tuple(facts["image_shape"]), facts["class_names"], load_other)
    state: dict[str, Any] = content["state_dict"]
    of_method = {key: state[key] for key in module.method.state_dict(prefix="method.") if key in state}
    module.load_state_dict(of_method | evaluated_state(state, weights))
    module.record = record
    return module.to(device).eval().requires_grad_(False), record


def load_classifier(
    run: str | Path, checkpoint: str = "best", device: str | torch.device = "cpu", **options: Any
) -> Classifier:
    """`load`, where what the run trained is a classifier, or a module of one's own whose `forward` is one.

    Raises:
        LithydraError: As `load`; or it is none.
    """
    module, record = load_with_record(run, checkpoint, device, **options)
    if isinstance(module, Classifier):
        if not module.method.classifies:
            what, hint = type(module.method).__name__, f"train.py init.from={run} init.head=replace trains one"
            raise ConfigError(f"run={run}: {what} has trained no head to classify; {hint}")
        return module
    return own_runs.as_classifier(module.cpu(), record).to(device)


def stored(
    run_or_checkpoint: str | Path, checkpoint: str, trust: Iterable[str]
) -> tuple[dict[str, Any], DictConfig, Path]:
    """A checkpoint's content, the config in it once that is trusted, and its file. Raises as `load`."""
    path = Path(run_or_checkpoint)
    file = RunDir.open(path).named_checkpoint(checkpoint) if path.is_dir() else path
    try:
        content = load_checkpoint(file)
    except DamagedCheckpoint as error:
        others = sorted(other.stem for other in file.parent.glob("*.ckpt") if other != file)
        raise DamagedCheckpoint(f"{error}; beside it lie {', '.join(others) or 'no others'}") from error
    record: dict[str, Any] | None = content.get("record")
    if not isinstance(record, dict) or not {"config", "data"} <= record.keys():
        raise ConfigError(f"{file}: not a checkpoint of lithydra")
    return content, trusted(record["config"], str(file), trust), file


def data(config: DictConfig) -> Any:
    """The data set, read and divided; or a LightningDataModule of a person's own, beside their module."""
    module: Any = make(config, "data")
    if not isinstance(module, ImageDataModule):
        if not (config.get("module") and isinstance(module, L.LightningDataModule)):
            raise ConfigError(f"data: {type(module).__name__} goes with module=NAME, a LightningModule of your own")
        return module
    fast_dev_run = int(config.trainer.get("fast_dev_run") or 0)
    module.load(classifiers.layout(config), fast_dev_run or config.trainer.get("limit_train_batches"))
    return module


def load_data(record: dict[str, Any], data_dir: str, other: DictConfig | None = None, seed: int | None = None) -> Any:
    """The data set of a run, read and divided as it was then.

    Args:
        record: Of the classifier that was loaded, or of the checkpoint.
        data_dir: Where prepared data sets are on this machine.
        other: Config of another data set of the same form, to take its place.
        seed: What divides `other`, unless it has a seed of its own; None for the run's.

    Raises:
        ConfigError: The data are not those of the checkpoint, by name, classes or image shape.
    """
    config = DictConfig(record["config"])
    config.paths.data = data_dir  # what `other` refers to is this machine's
    if other is not None:
        config.seed = config.seed if seed is None else seed
        config.data = other
    elif "dir" in config.data:
        config.data.dir = data_dir
    if "val_fraction" in config.data:
        config.data.batch_size = 1  # nothing is trained, so a small data set is no reason to refuse
    loaded = data(config)
    _refuse_mismatch(record["data"], own_data.facts(loaded))
    _warn_of_changes(record.get("checksums", {}), own_data.fingerprint(loaded))
    return loaded


def _refuse_mismatch(trained: dict[str, Any], given: dict[str, Any]) -> None:
    for key, what in (("name", "data set"), ("class_names", "classes"), ("image_shape", "image shape")):
        if trained[key] != given[key]:
            raise ConfigError(f"data: the checkpoint was trained on {what} {trained[key]}, and these are {given[key]}")


def _warn_of_changes(trained: dict[str, str], given: dict[str, str]) -> None:
    if changed := sorted(key for key in trained if trained[key] != given.get(key)):
        log.warning("The data are not those that the run was trained on: %s differ", ", ".join(changed))
