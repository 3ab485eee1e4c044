"""A trained model from its checkpoint alone: no config files, no data."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lithydra import build
from lithydra.checkpoint_io import DamagedCheckpoint
from lithydra.checkpoint_io import load as load_checkpoint
from lithydra.classifier import Classifier
from lithydra.run_dir import RunDir


def load(run_or_checkpoint: str | Path, checkpoint: str = "best", device: str | torch.device = "cpu") -> Classifier:
    """The classifier of a run, in evaluation mode.

    It maps raw images (B, C, H, W), uint8 or float in [0, 1], to logits; `probabilities(logits)` are its softmax.
    `record["data"]` holds `class_names` and `image_shape`, `record["config"]` the run's config.

    Args:
        run_or_checkpoint: A run directory, or a checkpoint file.
        checkpoint: Of a run directory: best (the last where nothing was validated), last or previous.

    Raises:
        LithydraError: There is no such run or checkpoint, or it is damaged.
    """
    path = Path(run_or_checkpoint)
    file = RunDir.open(path).named_checkpoint(checkpoint) if path.is_dir() else path
    try:
        content = load_checkpoint(file)
    except DamagedCheckpoint as error:
        others = sorted(other.stem for other in file.parent.glob("*.ckpt") if other != file)
        raise DamagedCheckpoint(f"{error}; beside it lie {', '.join(others) or 'no others'}") from error
    record: dict[str, Any] = content["lithydra"]
    data = record["data"]
    config = DictConfig(record["config"])
    module = build.classifier_like(config, tuple(data["image_shape"]), len(data["class_names"]))
    module.load_state_dict(content["state_dict"])
    module.record = record
    return module.to(device).eval()
