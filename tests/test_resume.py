"""Promise 1: a run that is killed anywhere and resumed ends bit for bit as if it had never stopped."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conftest import _compose
from killing import SignalAt, differences, in_child, outcome
from lithydra.checks import check
from lithydra.data.loaders import TrainingOrder
from lithydra.errors import ConfigError
from lithydra.resume_config import resumed
from lithydra.run_dir import RunDir
from lithydra.train import train

PROMISE = "1. A killed run resumes bit for bit"

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
    "augmentation": (
        "augmentation=flip_crop",
        "augmentation.padding=1",
        "trainer.steps_per_execution=16",
        "checkpoint.every_n_steps=5",
    ),
}
POINTS = {  # and after how many passages: early, in the middle, late
    "batch": (1, 20, 44),
    "before optimizer step": (2, 7, 11),
    "after optimizer step": (1, 5, 10),
    "validation": (1, 2, 3),
    "epoch end": (1, 2, 3),
    "saving": (3, 45, 90),
    "before rename": (1, 2, 3),
    "after rename": (1, 2, 3),
}
FAST = [("steps", point, passages[1]) for point, passages in POINTS.items()]
ALL = [(name, point, n) for name in SETTINGS for point, passages in POINTS.items() for n in passages]


class Killing:
    """Starts, kills and resumes runs of one setting."""

    def __init__(self, data_dir: Path, outputs: Path) -> None:
        self.data_dir, self.outputs = data_dir, outputs
        self.references: dict[str, dict] = {}

    def train(self, *overrides: str) -> None:
        config, choices = _compose(*overrides, data_dir=self.data_dir, outputs=self.outputs)
        check(config)
        if config.resume:
            config = resumed(RunDir.open(Path(config.resume), "resume"), config, list(overrides))
        train(config, choices, list(overrides))

    def child(self, *overrides: str, kill: SignalAt | None = None) -> int:
        def task() -> None:
            if kill:
                kill.install()
            self.train(*overrides)

        return in_child(task, self.outputs / "log")

    def reference(self, name: str) -> dict:
        """What the run gives when nothing stops it."""
        if name not in self.references:
            run = RunDir(self.outputs / f"reference-{name}")
            assert self.child(*COMMON, *SETTINGS[name], f"run={run.path}") == 0
            self.references[name] = outcome(run)
        return self.references[name]

    def killed_and_resumed(self, name: str, run: RunDir, *kills: SignalAt) -> dict:
        assert self.child(*COMMON, *SETTINGS[name], f"run={run.path}", kill=kills[0]) == -9
        for kill in kills[1:]:
            assert self.child(f"resume={run.path}", kill=kill) == -9
        assert self.child(f"resume={run.path}") == 0, (self.outputs / "log").read_text()
        return outcome(run)


@pytest.fixture(scope="module")
def killing(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killing]:
    yield Killing(data_dir, tmp_path_factory.mktemp("killing"))


@pytest.mark.parametrize(("name", "point", "passage"), FAST)
def test_a_killed_run_resumes_bit_for_bit(
    killing: Killing, tmp_path: Path, name: str, point: str, passage: int
) -> None:
    result = killing.killed_and_resumed(name, RunDir(tmp_path / "run"), SignalAt(point, passage))
    assert differences(killing.reference(name), result) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "point", "passage"), [case for case in ALL if case not in FAST])
def test_every_kill_point_resumes_bit_for_bit(
    killing: Killing, tmp_path: Path, name: str, point: str, passage: int
) -> None:
    result = killing.killed_and_resumed(name, RunDir(tmp_path / "run"), SignalAt(point, passage))
    assert differences(killing.reference(name), result) == []


def test_several_kills_in_one_run_resume_bit_for_bit(killing: Killing, tmp_path: Path) -> None:
    kills = (SignalAt("batch", 9), SignalAt("saving", 20), SignalAt("validation", 1))
    result = killing.killed_and_resumed("accumulation", RunDir(tmp_path / "run"), *kills)
    assert differences(killing.reference("accumulation"), result) == []


def test_a_plain_shuffled_order_fails_the_comparison(
    killing: Killing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: an order drawn anew at each start, as a shuffling DataLoader's is."""
    reference = killing.reference("steps")

    def shuffled(self: TrainingOrder, device: torch.device) -> torch.Tensor:
        return torch.randperm(self.num_images, generator=torch.Generator().manual_seed(torch.seed() % 2**31)).to(device)

    monkeypatch.setattr(TrainingOrder, "permutation", shuffled)
    result = killing.killed_and_resumed("steps", RunDir(tmp_path / "run"), SignalAt("batch", 20))
    assert any(d.startswith("/weights") for d in differences(reference, result))


def test_max_epochs_may_grow(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*COMMON, *SETTINGS["plateau"], "trainer.max_epochs=1", f"run={run.path}")
    killing.train(f"resume={run.path}", "trainer.max_epochs=3")
    assert differences(killing.reference("plateau"), outcome(run)) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=0.5", "lr was 0.001, given 0.5"),
        ("optimizer=sgd", "optimizer._target_ was torch.optim.Adam, given torch.optim.SGD"),
        ("data.batch_size=8", "data.batch_size was 16, given 8"),
        ("data=mnist", "data.name was digits, given mnist"),
        ("seed=1", "seed was 0, given 1"),
        ("model.hidden=[8]", "model.hidden was [16], given [8]"),
        ("scheduler=cosine", "scheduler._target_ was"),
        ("trainer.max_epochs=1", "finished after 1 epochs; trainer.max_epochs=2 would go on"),
    ],
)
def test_resuming_as_another_run_is_refused(killing: Killing, tmp_path: Path, override: str, message: str) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*COMMON, "trainer.max_epochs=1", f"run={run.path}")
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        killing.train(f"resume={run.path}", override)


def test_a_schedule_laid_out_over_the_run_does_not_grow(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*COMMON, "scheduler=cosine", "trainer.max_epochs=1", f"run={run.path}")
    with pytest.raises(ConfigError, match=r"scheduler\.T_max was laid out for 1"):
        killing.train(f"resume={run.path}", "trainer.max_epochs=2")


def test_resuming_without_a_checkpoint_starts_at_the_beginning(killing: Killing, tmp_path: Path) -> None:
    result = killing.killed_and_resumed("steps", RunDir(tmp_path / "run"), SignalAt("fit start", 1))
    assert differences(killing.reference("steps"), result) == []
