"""What is random in a step of two processes: each has numbers of its own."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lithydra.training.engine import GradientClassifier
from ranks import Runs

PROMISE = "13. Several processes, one result"


def test_each_process_drops_other_activations(data_dir: Path, tmp_path: Path) -> None:
    """With the same masks in both, a batch would have half as many as it has images."""
    runs = Runs(data_dir, tmp_path)

    def watch() -> None:
        dropout, train = functional.dropout, GradientClassifier._train_chunk

        def noted(input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
            mask = dropout(torch.ones_like(input), p, training)
            with (tmp_path / f"masks{os.environ.get('LOCAL_RANK', '0')}").open("a") as file:
                print(*(mask > 0).int().flatten().tolist(), sep="", file=file)
            return input * mask

        def trained(*arguments: Any) -> None:  # and not the dry run
            functional.dropout = noted
            train(*arguments)
            functional.dropout = dropout

        GradientClassifier._train_chunk = trained  # pyright: ignore[reportAttributeAccessIssue]

    small = (
        "callbacks=none",
        "logger=none",
        "trainer.max_epochs=2",
        "data.limit=64",
        "data.batch_size=16",
        "data.val_fraction=0",
    )
    runs.finished("run", "accelerator=ddp_cpu", *small, "model.hidden=[16]", "model.dropout=0.5", prepare=watch)
    first, second = ((tmp_path / f"masks{rank}").read_text().split() for rank in (0, 1))
    assert len(first) == len(second) == 8 and len(first[0]) == 8 * 16  # steps, and a process's share of each
    assert len({*first, *second}) == 16
