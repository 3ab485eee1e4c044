"""Runs that are killed: each is a forked process, so that a kill is a real one and costs no new import of torch."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lithydra import checkpoint_io
from lithydra.callbacks.checkpoint import RunCheckpoint
from lithydra.callbacks.look_inside import LookInside
from lithydra.checkpoint_io import load
from lithydra.classifier import Classifier
from lithydra.gradient_classifier import GradientClassifier
from lithydra.run_dir import RunDir


def in_child(task: Callable[[], Any], log: Path) -> int:
    """Run `task` in a forked process; returns its exit code, negative for a signal. What it prints goes to `log`."""
    return os.waitstatus_to_exitcode(os.waitpid(started(task, log), 0)[1])


def started(task: Callable[[], Any], log: Path) -> int:
    """Start `task` in a forked process; returns its number."""
    process = os.fork()
    if process == 0:
        code = 70
        with contextlib.suppress(BaseException), log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            logging.getLogger("lithydra").setLevel(logging.INFO)
            try:
                task()
                code = 0
            except SystemExit as error:
                code = int(error.code or 0)
            except BaseException as error:
                code = getattr(error, "exit_code", 71)
                print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(code)
    return process


class SignalAt:
    """Sends this process a signal at the n-th passage of one point of a run. Points: see `install`.

    Of several processes it is the one of `rank`, or, with `group`, all of them at once.
    """

    def __init__(
        self, point: str, passage: int, number: int = signal.SIGKILL, *, rank: int = 0, group: bool = False
    ) -> None:
        self.point, self.left, self.number = point, passage, number
        self.rank, self.group = rank, group

    def __call__(self) -> None:
        if int(os.environ.get("LOCAL_RANK", "0")) != self.rank:
            return
        self.left -= 1
        if self.left == 0:
            os.kill(0 if self.group else os.getpid(), self.number)

    def install(self) -> None:
        """Patch the classes of this (forked) process so that the point is noticed."""
        owner: Any
        owner, name = {
            "batch": (GradientClassifier, "_train"),
            "before optimizer step": (GradientClassifier, "_update"),
            "after optimizer step": (RunCheckpoint, "on_optimizer_step"),
            "validation": (Classifier, "validation_step"),
            "epoch end": (GradientClassifier, "on_train_epoch_end"),
            "test": (Classifier, "test_step"),
            "fit start": (GradientClassifier, "on_fit_start"),
            "pictures": (LookInside, "_pictures"),
        }.get(self.point, (None, ""))
        if owner is None:
            self._install_while_saving()
            return
        original = getattr(owner, name)

        def passed(passing: Any, *args: Any, **kwargs: Any) -> Any:
            if getattr(passing, "_trainer", self) is not None:  # else it is the dry run's copy
                self()
            return original(passing, *args, **kwargs)

        setattr(owner, name, passed)

    def _install_while_saving(self) -> None:
        """`saving`: with half of a checkpoint written. `before rename` and `after rename`: with all of it."""
        write, replace, trigger = checkpoint_io._HashingWriter.write, os.replace, self

        def half_written(writer: Any, data: Any) -> int:
            written = write(writer, data)
            writer.file.flush()
            trigger()
            return written

        def renamed(source: Any, target: Any) -> None:
            ours = str(target).endswith("last.ckpt")
            if ours and trigger.point == "before rename":
                trigger()
            replace(source, target)
            if ours and trigger.point == "after rename":
                trigger()

        if self.point == "saving":
            checkpoint_io._HashingWriter.write = half_written  # pyright: ignore[reportAttributeAccessIssue]
        else:
            os.replace = renamed


def outcome(run: RunDir) -> dict[str, Any]:
    """All that must be equal between a run and its resumed twin."""
    checkpoint = load(run.last)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in run.read_metrics()]
    return {
        "weights": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"],
        "scheduler": checkpoint["lr_schedulers"],
        "best": [v for k, v in checkpoint["callbacks"].items() if "RunCheckpoint" in k],
        "random": checkpoint["lithydra"]["progress"]["random_state"],
        "metrics.csv": rows,
        "final": run.read_status()["metrics"],
    }


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Where two nested structures are not bit for bit the same."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [path]
    if isinstance(first, dict):
        keys = {*first, *second}
        return [d for k in keys for d in differences(first.get(k), second.get(k), f"{path}/{k}")]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [f"{path}: {len(first)} and {len(second)} items"]
        return [d for i, (a, b) in enumerate(zip(first, second, strict=True)) for d in differences(a, b, f"{path}/{i}")]
    return [] if first == second else [f"{path}: {first} and {second}"]
