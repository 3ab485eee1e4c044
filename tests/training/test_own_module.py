"""Stock LightningModules, and a stock LightningDataModule: nothing in them knows of lithydra."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lithydra
from conftest import QUIET, RunTrain, assert_equal, checkpoint, rows, weights
from killing import Killing, SignalAt, differences, outcome
from lithydra.errors import ConfigError, DivergedError
from lithydra.run.directory import RunDir
from stock import DATA, HERE, MODULES, OWN, SHORT, LitClassifier
from sweeping import sweep

PROMISE = "1. A killed run resumes bit for bit"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_a_run_as_any_other(run_train: RunTrain, name: str) -> None:
    run = run_train(
        "data.limit=300", "trainer.max_epochs=3", "normalization=z_score", *MODULES[name], "callbacks=default"
    )
    status = run.read_status()
    metric = {"classifier": "val_acc", "autoencoder": "val_loss", "gan": "val_margin"}[name]
    curve = [float(row[metric]) for row in rows(run)]
    pick = max if name == "classifier" else min
    assert status["state"] == "finished" and status["metrics"][metric] == pytest.approx(pick(curve))
    assert curve[status["best_epoch"] - 1] == pick(curve)
    assert run.best.exists() and run.page.exists() and (run.plots / "curves.png").exists()
    assert [row["step"] for row in rows(run)] == (["34", "68", "102"] if name == "gan" else ["17", "34", "51"])
    best = checkpoint(run.best)
    loaded = lithydra.load(run.path, trust=[HERE])
    assert_equal(dict(loaded.state_dict()), dict(best["state_dict"]))
    assert best["record"]["progress"]["epochs"] == status["best_epoch"]


def test_batches_are_floats_normalized_and_augmented(run_train: RunTrain, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Tensor]] = {"training_step": [], "validation_step": []}
    for name in seen:
        step = getattr(LitClassifier, name)

        def noted(module: Any, batch: Any, batch_idx: int, step: Any = step, name: str = name) -> Any:
            seen[name].append(batch[0])
            assert batch[0].dtype == torch.float32 and batch[1].dtype == torch.int64
            return step(module, batch, batch_idx)

        monkeypatch.setattr(LitClassifier, name, noted)
    run_train(*SHORT, *OWN, "normalization=z_score", "augmentation=cutout", "trainer.max_epochs=1")
    train, val = (torch.cat(batches) for batches in seen.values())
    assert abs(float(val.mean())) < 0.2 and abs(float(val.std()) - 1) < 0.2
    blank = val.min()
    assert (train == blank).float().mean() > (val == blank).float().mean() + 0.1


@pytest.mark.counted("kill points, resumed bit-equal")
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(("point", "passage"), [("after rename", 2), ("saving", 20), ("after optimizer step", 20)])
def test_a_killed_module_resumes_bit_for_bit(
    killing: Killing, tmp_path: Path, name: str, point: str, passage: int
) -> None:
    settings = (*SHORT, *MODULES[name], "checkpoint.every_n_steps=3", "augmentation=affine")
    whole, run = RunDir(killing.outputs / f"whole-{name}"), RunDir(tmp_path / "run")
    log = killing.outputs / "log"
    if not whole.path.exists():
        assert killing.child(*settings, f"run={whole.path}") == 0, log.read_text()
    assert killing.child(*settings, f"run={run.path}", kill=SignalAt(point, passage)) == -9, log.read_text()
    assert killing.child(f"resume={run.path}", f"trust=[{HERE}]") == 0, log.read_text()
    assert differences(outcome(whole), outcome(run)) == []


@pytest.mark.counted("kill points, resumed bit-equal")
@pytest.mark.parametrize(("point", "passage"), [("after rename", 6), ("after optimizer step", 20)])  # an epoch's end
def test_a_plateau_is_looked_for_in_each_epoch_of_a_resumed_run(
    killing: Killing, tmp_path: Path, point: str, passage: int
) -> None:
    settings = (*SHORT, f"+module._target_={HERE}.Plateau", *OWN[1:], "checkpoint.every_n_steps=3")
    settings = (*settings, "trainer.max_epochs=4")
    whole, run, log = RunDir(killing.outputs / "whole-plateau"), RunDir(tmp_path / "run"), killing.outputs / "log"
    if not whole.path.exists():
        assert killing.child(*settings, f"run={whole.path}") == 0, log.read_text()
    assert killing.child(*settings, f"run={run.path}", kill=SignalAt(point, passage)) == -9, log.read_text()
    assert killing.child(f"resume={run.path}", f"trust=[{HERE}]") == 0, log.read_text()
    assert differences(outcome(whole), outcome(run)) == []
    assert [row["lr"] for row in rows(run)] == ["0.02", "0.02", "0.01", "0.005"]
    (scheduler,) = checkpoint(run.last)["lr_schedulers"]
    assert scheduler["last_epoch"] == 4 and scheduler["_last_lr"] == [0.0025]


def test_a_data_module_of_ones_own(run_train: RunTrain, caplog: pytest.LogCaptureFixture) -> None:
    settings = ("trainer.max_epochs=2", *QUIET, DATA, *OWN)
    run = run_train(*settings)
    assert run.read_status()["metrics"].keys() >= {"train_loss", "val_loss", "val_acc", "test_acc"}
    again = run_train(*settings)
    assert_equal(dict(weights(again)), dict(weights(run)))


def test_a_shuffled_loader_is_said_to_be_inexact_once(killing: Killing, tmp_path: Path) -> None:
    run, log = RunDir(tmp_path / "run"), killing.outputs / "log"
    settings = ("trainer.max_epochs=3", *QUIET, DATA, *OWN, f"run={run.path}")
    assert killing.child(*settings, kill=SignalAt("after rename", 1)) == -9, log.read_text()
    log.unlink()
    assert killing.child(f"resume={run.path}", f"trust=[{HERE}]") == 0, log.read_text()
    assert run.log.read_text().count("shuffled by a loader of your own") == 1
    assert run.read_status()["epoch"] == 3


@pytest.mark.parametrize(("passage", "epochs"), [(3, 0), (25, 1)])
def test_a_signal_stops_it_within_an_epoch(killing: Killing, tmp_path: Path, passage: int, epochs: int) -> None:
    run, log = RunDir(tmp_path / "run"), killing.outputs / "log"
    settings = ("trainer.max_epochs=3", *QUIET, DATA, *OWN, f"run={run.path}")
    kill = SignalAt("after optimizer step", passage, signal.SIGTERM)
    assert killing.child(*settings, kill=kill) == 143, log.read_text()
    status = run.read_status()
    assert status["state"] == "interrupted" and status.get("epoch", 0) == epochs
    saved = "saved at the end of epoch 1, which it goes on from" if epochs else "nothing to save yet"
    assert status["error"].startswith(f"Stopped by SIGTERM, {saved}. Go on with: python train.py resume=")
    assert killing.child(f"resume={run.path}", f"trust=[{HERE}]") == 0, log.read_text()
    assert run.read_status()["epoch"] == 3 and [row["epoch"] for row in rows(run)] == ["1", "2", "3"]


@pytest.mark.parametrize("setting", ["checkpoint.every_n_steps=3", "checkpoint.every_seconds=1.5"])
def test_saves_within_its_epochs_are_refused(run_train: RunTrain, setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{setting}: within an epoch a loader of one's own cannot go on"):
        run_train("trainer.max_epochs=2", *QUIET, DATA, *OWN, setting)


def test_its_data_alone_are_refused(run_train: RunTrain) -> None:
    with pytest.raises(ConfigError, match=r"^data: LitData goes with module=NAME"):
        run_train(DATA, f"trust=[{HERE}]")


def test_a_metric_that_it_does_not_log_is_refused_with_those_it_does(run_train: RunTrain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"monitor\.metric=val/acc: not measured; there are train_loss, val_ac"):
        run_train(*SHORT, *OWN[:-1])
    assert not (tmp_path / "runs").exists()


class Unsafe(LitClassifier):
    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self.save_hyperparameters()


def test_hyperparameters_that_no_checkpoint_should_hold_are_named(run_train: RunTrain) -> None:
    with pytest.raises(ConfigError, match=r"module: its hyperparameter optimizer \(partial\) is neither .*ignore=\['o"):
        run_train(*SHORT, "+module._target_=test_own_module.Unsafe", *OWN[2:], "trust=[test_own_module]")


class Diverging(LitClassifier):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss / 0 if self.global_step > 20 else loss


def test_divergence_is_found_and_no_nan_is_saved(run_train: RunTrain, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"^Diverged at step \d+: the loss is not finite .* last\.ckpt is of step"):
        run_train(*SHORT, "+module._target_=test_own_module.Diverging", *OWN[2:], "trust=[test_own_module]")
    state = weights(RunDir(tmp_path / "runs" / "1"))
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("average=ema", "average: is lithydra's own"),
        ("tta=flip", "tta: is lithydra's own"),
        ("regularizer=l2", "regularizer: is lithydra's own"),
        ("callbacks=histograms", r"callbacks\.parameter_histograms: is lithydra's own"),
        ("init.from=.", r"init\.from: is lithydra's own"),
        ("trainer.steps_per_execution=4", r"trainer\.steps_per_execution=4: Lightning's own loop takes one"),
        ("accelerator=ddp_cpu", "a module of one's own trains in one process"),
        ("optimizer_groups=no_decay", "optimizer_groups: is lithydra's own"),
        ("init.backbone_lr_factor=0.1", r"init\.backbone_lr_factor: is lithydra's own"),
        (
            "scheduler=cosine",
            "^scheduler=.*CosineAnnealingLR: Autoencoder takes no scheduler; a parameter of that name",
        ),
    ],
)
def test_what_it_does_not_know_is_refused(run_train: RunTrain, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_train(*SHORT, "module=autoencoder", setting)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("module=gan", "optimizer=sgd"), r"^optimizer=torch\.optim\.SGD: GAN takes no optimizer; a param"),
        ((*OWN, "optimizer.eps=0.1"), r"^optimizer=torch\.optim\.Adam: LitClassifier takes no optimizer; a"),
        ((*OWN, "lr=0.01"), r"^lr=0\.01: LitClassifier takes neither lr nor optimizer; a"),
        (("module=gan", "model.hidden=[7]"), "^model: GAN has its own, and would not see the one that was chosen"),
        ((*OWN, "method=adversarial"), "^method: LitClassifier has its own"),
        (("module=gan", "trainer.gradient_clip_val=1.0"), r"^trainer\.gradient_clip_val=1\.0: GAN optimizes by hand"),
        (("module=gan", "trainer.accumulate_grad_batches=2"), r"^trainer\.accumulate_grad_batches=2: GAN optimizes by"),
    ],
)
def test_what_would_not_reach_it_is_refused(
    run_train: RunTrain, tmp_path: Path, settings: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run_train(*SHORT, *settings)
    assert "\n" not in str(caught.value) and not (tmp_path / "runs").exists()


class Scheduled(LitClassifier):
    def __init__(self, scheduler: Any) -> None:
        super().__init__()


def test_a_schedule_beside_data_of_ones_own_is_refused(run_train: RunTrain) -> None:
    own = ("+module._target_=test_own_module.Scheduled", *OWN[2:], "trust=[test_own_module]")
    with pytest.raises(ConfigError, match=r"^scheduler=.*CosineAnnealingLR: of data of one's own it is not known"):
        run_train("trainer.max_epochs=1", *QUIET, DATA, *own, "scheduler=cosine")


def test_lr_reaches_a_module_that_takes_it(run_train: RunTrain) -> None:
    for settings, lr in (((), 2e-4), (("lr=0.01",), 0.01)):
        run = run_train(*SHORT, "module=gan", *settings)
        assert [row["lr"] for row in rows(run)] == [str(lr)] * 2 and run.read_config()["lr"] == lr
        assert all(state["param_groups"][0]["lr"] == lr for state in checkpoint(run.last)["optimizer_states"])


def test_modules_are_swept_and_reported(data_dir: Path, tmp_path: Path) -> None:
    axes = ("module.code=2,8", "seed=0,1")
    done = sweep(*axes, "module=autoencoder", "module.hidden=16", *SHORT, folder=tmp_path, data_dir=data_dir)
    assert done.code == 0, done.output
    frame: Any = lithydra.results(done.sweep.path)
    assert len(frame) == 4 and (frame["state"] == "finished").all()
    means = frame.groupby("module.code")["val_loss"].mean()
    assert means[8] < means[2] and "best by val_loss" in done.output
    assert "validation loss" in (done.sweep.path / "report.html").read_text()


def test_its_logs_go_to_the_loggers_by_optimizer_steps(run_train: RunTrain) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = ("logger=tensorboard", "trainer.log_every_n_steps=5", "callbacks=none", *SHORT[:2])
    run = run_train(*settings, *OWN)
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("val_acc")] == [16, 33]
    assert {event.step for event in events.Scalars("train_loss")} <= {*range(4, 34, 5)}


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_its_batches_are_of_its_precision(run_train: RunTrain, precision: str) -> None:
    run = run_train(*SHORT, *OWN, f"trainer.precision={precision}")
    types = {"64-true": torch.float64, "bf16-true": torch.bfloat16}
    assert weights(run)["head.weight"].dtype == types.get(precision, torch.float32)


def test_a_part_of_the_batches_of_ones_own_data(run_train: RunTrain) -> None:
    run = run_train("trainer.max_epochs=1", *QUIET, DATA, *OWN, "trainer.limit_train_batches=4")
    assert run.read_metrics()[-1]["step"] == "4"


class Masked(LitClassifier):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((2,), -torch.inf))


def test_a_buffer_may_be_infinite(run_train: RunTrain) -> None:
    run = run_train(*SHORT, "+module._target_=test_own_module.Masked", *OWN[2:], "trust=[test_own_module]")
    assert run.read_status()["state"] == "finished"
