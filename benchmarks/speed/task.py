"""What the contenders other than lithydra share: their data, their net and the file with their result."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import nn

from lithydra.models.alexnet import AlexNet
from lithydra.models.cnn import CNN
from lithydra.models.mlp import MLP

from .workloads import SEED, VAL_FRACTION, Workload

MODELS = {"mlp": MLP, "cnn": CNN, "alexnet": AlexNet}


@dataclass(frozen=True)
class Task:
    """A workload with its data: images (N, H, W) or (N, H, W, C) uint8, labels (N,) int64.

    Attributes:
        train_indices: rows of `x_train` to train on; `val_indices` those to validate on. The parts that lithydra takes.
        load_seconds: what reading the file took.
    """

    workload: Workload
    epochs: int
    accelerator: str
    device: torch.device
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    train_indices: np.ndarray
    val_indices: np.ndarray
    load_seconds: float

    def net(self) -> nn.Module:
        height, width, *channels = self.x_train.shape[1:]
        shape = (channels[0] if channels else 1, height, width)
        net = MODELS[self.workload.model](in_shape=shape, num_classes=10, **self.workload.settings)
        return net.to(self.device)


def read_task() -> Task:
    """The task that the first argument describes as JSON."""
    given = json.loads(sys.argv[1])
    workload = Workload(**given["workload"])
    torch.manual_seed(SEED)
    start = time.perf_counter()
    with np.load(Path(os.environ["LITHYDRA_DATA"]) / f"{workload.data}.npz") as file:
        arrays = {key: file[key] for key in ("x_train", "y_train", "x_test", "y_test")}
    load_seconds = time.perf_counter() - start
    for key in ("y_train", "y_test"):
        arrays[key] = arrays[key].reshape(-1).astype(np.int64)
    labels = arrays["y_train"]
    indices = np.arange(len(labels))
    if workload.limit and workload.limit < len(indices):
        indices, _ = _split(indices, labels, workload.limit)
    train, val = _split(indices, labels, len(indices) - round(VAL_FRACTION * len(indices)))
    device = torch.device("cuda" if given["accelerator"].startswith("gpu") else "cpu")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return Task(
        workload,
        given["epochs"],
        given["accelerator"],
        device,
        **arrays,
        train_indices=train,
        val_indices=val,
        load_seconds=load_seconds,
    )


def _split(indices: np.ndarray, labels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    positions = train_test_split(np.arange(len(indices)), train_size=size, stratify=labels[indices], random_state=SEED)
    return indices[np.sort(positions[0])], indices[np.sort(positions[1])]


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
