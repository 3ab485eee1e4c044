"""Runs that are killed: each is a forked process, so that a kill is a real one and costs no new import of torch."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import _compose  # pyright: ignore[reportPrivateUsage]
from lithydra.callbacks.look_inside import LookInside
from lithydra.checks.config import check
from lithydra.run import checkpoints
from lithydra.run.checkpoints import load
from lithydra.run.directory import TIMES, RunDir
from lithydra.training.checkpoint import RunCheckpoint
from lithydra.training.classifier import Classifier
from lithydra.training.engine import GradientClassifier
from lithydra.training.resuming import resumed
from lithydra.training.train import train

COMMON = (
    "data.limit=256",
    "data.batch_size=16",
    "trainer.max_epochs=3",
    "model.hidden=[16]",
    "model.dropout=0.3",
    "model.batch_norm=true",
    "callbacks=none",
    "logger=none",
)
# Images that are decoded while training, by a DataLoader.
FILES = (
    "data=image_folder",
    "data.image_size=8",
    "data.memory_limit_gib=0",
    "data.cache_limit_gib=0",
    "data.limit=null",
    "data.val_fraction=0.2",
    "trainer.max_epochs=2",
    "augmentation=flip_crop",
    "augmentation.flip_crop.padding=1",
    "trainer.steps_per_execution=2",
    "checkpoint.every_n_steps=2",
    "scheduler=exponential",
)
SETTINGS = {
    "plateau": ("scheduler=plateau", "scheduler.patience=0", "monitor.metric=val/loss", "monitor.mode=min"),
    "steps": ("scheduler=onecycle", "trainer.steps_per_execution=4", "checkpoint.every_n_steps=3"),
    "accumulation": (
        "trainer.accumulate_grad_batches=4",
        "scheduler=step",
        "scheduler.step_size=1",
        "trainer.steps_per_execution=1",
        "checkpoint.every_n_steps=2",
    ),
    "compiled": ("compile=true", "checkpoint.every_n_steps=3"),
    "lbfgs": ("optimizer=lbfgs", "lr=0.5", "data.batch_size=64", "checkpoint.every_n_steps=1"),
    "averaged": (
        "+callbacks.ema={_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.9}",
        "checkpoint.every_n_steps=3",
    ),
    "files_0_workers": ("data.num_workers=0", *FILES),
    "files_2_workers": ("data.num_workers=2", *FILES),
    "augmentation": (
        "augmentation=flip_crop",
        "augmentation.flip_crop.padding=1",
        "trainer.steps_per_execution=16",
        "checkpoint.every_n_steps=5",
    ),
}


# What a person opens the engine with; `{teacher}` is a finished run.
OPENED = {
    "adversarial": ("method=adversarial", "trainer.steps_per_execution=4", "checkpoint.every_n_steps=3"),
    "distillation": ("method=distillation", "method.teacher={teacher}", "checkpoint.every_n_steps=4"),
    "simclr": (
        *("method=simclr", "monitor.metric=val/loss", "monitor.mode=min"),
        *("augmentation=[flip,affine]", "checkpoint.every_n_steps=3"),
    ),
    "ema": ("average=ema", "average.decay=0.9", "trainer.steps_per_execution=4", "checkpoint.every_n_steps=3"),
    "swa": ("average=swa", "average.start=0.4", "trainer.steps_per_execution=2", "checkpoint.every_n_steps=4"),
    "lookahead": ("average=lookahead", "average.steps=4", "checkpoint.every_n_steps=3"),
    "three augmentations": (
        *("augmentation=[alternating_flip,shift,mixup]", "augmentation.shift.pixels=1"),
        *("trainer.steps_per_execution=16", "checkpoint.every_n_steps=5"),
    ),
    "seconds": ("trainer.max_seconds=0.2", "scheduler=cosine", "checkpoint.every_n_steps=3"),
    "metrics": (
        *("metrics=[accuracy,macro_f1,auroc]", "monitor.metric=val/macro_f1", "scheduler=plateau"),
        *("train_metrics=true", "checkpoint.every_n_steps=3"),
    ),
}


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
        write, replace, trigger = checkpoints._HashingWriter.write, os.replace, self

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
            checkpoints._HashingWriter.write = half_written  # pyright: ignore[reportAttributeAccessIssue]
        else:
            os.replace = renamed


def outcome(run: RunDir) -> dict[str, Any]:
    """All that must be equal between a run and its resumed twin."""
    checkpoint = load(run.last)
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in run.read_metrics()]
    return {
        "weights": checkpoint["state_dict"],
        "optimizer": checkpoint["optimizer_states"],
        "scheduler": checkpoint["lr_schedulers"],
        "best": [v for k, v in checkpoint["callbacks"].items() if "RunCheckpoint" in k],
        "random": checkpoint["record"]["progress"]["random_state"],
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


def write_folder(folder: Path, data_dir: Path, per_class: int = 20) -> None:
    """Digits 0, 1 and 2 as PNG files, a folder for each."""
    with np.load(data_dir / "digits.npz") as arrays:
        for label in range(3):
            (folder / str(label)).mkdir(parents=True)
            for number, image in enumerate(arrays["x_train"][arrays["y_train"] == label][:per_class]):
                Image.fromarray(image).save(folder / str(label) / f"{number}.png")


class Killing:
    """Starts, kills and resumes runs of one setting."""

    def __init__(self, data_dir: Path, outputs: Path) -> None:
        self.data_dir, self.outputs = data_dir, outputs
        write_folder(outputs / "images", data_dir)
        self.references: dict[str, dict] = {}

    def train(self, *overrides: str) -> None:
        if "data=image_folder" in overrides and not any(o.startswith("data.path=") for o in overrides):
            overrides = (*overrides, f"data.path={self.outputs / 'images'}")
        config, choices = _compose(*overrides, data_dir=self.data_dir, outputs=self.outputs)
        if config.resume:
            config = resumed(RunDir.open(Path(config.resume), "resume"), config, list(overrides))
        check(config)
        train(config, choices, list(overrides))

    def child(self, *overrides: str, kill: SignalAt | None = None) -> int:
        def task() -> None:
            if kill:
                kill.install()
            self.train(*overrides)

        return in_child(task, self.outputs / "log")

    def settings(self, name: str) -> tuple[str, ...]:
        given = (*COMMON, *{**SETTINGS, **OPENED}[name])
        if any("{teacher}" in setting for setting in given):
            self.reference("steps")
        return tuple(setting.replace("{teacher}", str(self.outputs / "reference-steps")) for setting in given)

    def reference(self, name: str) -> dict:
        """What the run gives when nothing stops it."""
        if name not in self.references:
            run = RunDir(self.outputs / f"reference-{name}")
            assert self.child(*self.settings(name), f"run={run.path}") == 0, (self.outputs / "log").read_text()
            self.references[name] = outcome(run)
        return self.references[name]

    def killed_and_resumed(self, name: str, run: RunDir, *kills: SignalAt) -> dict:
        assert self.child(*self.settings(name), f"run={run.path}", kill=kills[0]) == -9
        for kill in kills[1:]:
            assert self.child(f"resume={run.path}", kill=kill) == -9
        assert self.child(f"resume={run.path}") == 0, (self.outputs / "log").read_text()
        return outcome(run)


@pytest.fixture(scope="module")
def killing(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Killing:
    return Killing(data_dir, tmp_path_factory.mktemp("killing"))
