import math
from pathlib import Path

import lightning as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from conftest import QUIET, SMALL, RunTrain, assert_equal, checkpoint, rows, weights
from lithydra.data.splits import Batch
from lithydra.errors import ConfigError
from lithydra.metrics import SplitMetrics
from lithydra.training.checkpoint import RunCheckpoint
from lithydra.training.classifier import Classifier


def test_training_metrics_weigh_images_alike(run_train: RunTrain) -> None:
    """Weights that stand still give each epoch the same metrics, whatever images its smaller last batch holds."""
    run = run_train(*SMALL, "data.limit=270", "data.val_fraction=0", "lr=1e-12", "data.batch_size=100")
    first, second = rows(run)
    assert first["train/acc"] == second["train/acc"]
    assert float(first["train/loss"]) == pytest.approx(float(second["train/loss"]), rel=1e-6)
    assert float(first["train/acc"]) * 270 == pytest.approx(round(float(first["train/acc"]) * 270))


def test_training_loss_is_told_without_the_penalty(run_train: RunTrain) -> None:
    still = (*SMALL, "optimizer=sgd", "lr=1e-12")
    plain = run_train(*still)
    penalized = run_train(*still, "regularizer=l2", "regularizer.l2.weight=10")
    assert float(rows(penalized)[-1]["train/loss"]) == pytest.approx(float(rows(plain)[-1]["train/loss"]), rel=1e-6)


# 270 images in batches of 16 are 17 batches an epoch: chunks of 7, 7, 3 and of 16, 1.
CHUNKING = {
    "momentum": ("optimizer=sgd", "optimizer.momentum=0.9"),
    "step scheduler, clipping by norm": ("scheduler=cosine", "trainer.gradient_clip_val=0.5"),
    "step scheduler, accumulation, mixed images": (
        "scheduler=onecycle",
        "trainer.accumulate_grad_batches=4",
        "augmentation=mixup",
    ),
    "epoch scheduler, dropout, penalty": ("scheduler=exponential", "model.dropout=0.3", "regularizer=l1"),
    "plateau, accumulation, augmentation": (
        "scheduler=plateau",
        "scheduler.patience=0",
        "trainer.accumulate_grad_batches=4",
        "augmentation=affine",
    ),
    "bf16, accumulation, clipping by value, dropout": (
        "trainer.precision=bf16-mixed",
        "trainer.accumulate_grad_batches=4",
        "trainer.gradient_clip_val=0.01",
        "trainer.gradient_clip_algorithm=value",
        "model.dropout=0.3",
    ),
    "lbfgs": ("optimizer=lbfgs",),
    "distant pixels": ("method=adversarial", "method.steps=2", "model.dropout=0.3"),
    "no labels": ("method=simclr", "augmentation=[flip,affine]", "monitor.metric=val/loss", "monitor.mode=min"),
    "moving average": ("average=ema", "average.decay=0.9", "model.batch_norm=true"),
    "average of the end": ("average=swa", "average.start=0.4", "model.batch_norm=true"),
    "slow weights": ("average=lookahead", "average.steps=4", "model.batch_norm=true"),
    "three augmentations": ("augmentation=[alternating_flip,shift,mixup]", "augmentation.shift.pixels=1"),
    "other metrics, views": ("metrics=[accuracy,macro_f1,auroc]", "monitor.metric=val/auroc", "tta=flip_shift"),
    "stop in a chunk": ("trainer.max_steps=22", "scheduler=warmup_cosine"),
    "stop in the last chunk of an epoch": ("trainer.max_steps=16",),
    "stop in accumulation": ("trainer.max_steps=8", "trainer.accumulate_grad_batches=4"),
}


@pytest.mark.parametrize("overrides", CHUNKING.values(), ids=CHUNKING.keys())
def test_steps_per_execution_changes_nothing(run_train: RunTrain, overrides: tuple[str, ...]) -> None:
    one, *others = (run_train(*SMALL, *overrides, f"trainer.steps_per_execution={k}") for k in (1, 7, 16))
    expected = checkpoint(one.last)
    assert all(value.isfinite().all() for value in expected["state_dict"].values())
    for other in others:
        found = checkpoint(other.last)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
            assert_equal(found[key], expected[key])
        assert rows(other) == rows(one)
        assert other.read_status()["metrics"] == one.read_status()["metrics"]


def test_early_stopping_stops_where_single_steps_would(run_train: RunTrain) -> None:
    settings = (*SMALL, "trainer.max_epochs=20", "callbacks=early_stopping", "callbacks.early_stopping.patience=1")
    one, many = (run_train(*settings, "lr=0.03", f"trainer.steps_per_execution={k}") for k in (1, 7))
    assert 2 <= len(rows(one)) < 20
    assert rows(many) == rows(one)
    assert_equal(weights(many), weights(one))


def test_every_n_steps_means_optimizer_steps(run_train: RunTrain, monkeypatch: pytest.MonkeyPatch) -> None:
    """17 batches an epoch; logged every 5 steps and saved every 6, besides the ends of the epochs."""
    saved: list[int] = []
    save = RunCheckpoint._save

    def noted(self: RunCheckpoint, trainer: L.Trainer) -> None:
        saved.append(trainer.global_step)
        save(self, trainer)

    monkeypatch.setattr(RunCheckpoint, "_save", noted)
    logged: list[dict[int, float]] = []
    for k in (1, 7, 16):
        run = run_train(
            *SMALL,
            "logger=tensorboard",
            "trainer.log_every_n_steps=5",
            "checkpoint.every_n_steps=6",
            f"trainer.steps_per_execution={k}",
        )
        events = EventAccumulator(str(run.path / "tensorboard")).Reload()
        logged.append({event.step: event.value for event in events.Scalars("train/loss_step")})
        assert saved == [6, 12, 17, 18, 24, 30, 34]
        saved.clear()
    assert list(logged[0]) == [5, 10, 15, 20, 25, 30]
    assert logged[1] == logged[2] == logged[0]


def test_last_batch_that_the_model_cannot_take_is_refused_before_training(run_train: RunTrain) -> None:
    """BatchNorm has no variance of one image."""
    with pytest.raises(
        ConfigError, match=r"data\.batch_size=269: the last batch of the 270 training images has 1, which"
    ):
        run_train(*SMALL, "data.batch_size=269", "model.batch_norm=true")


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ((), [17, 34]),
        (("trainer.accumulate_grad_batches=4",), [5, 10]),
        (("trainer.accumulate_grad_batches=17",), [1, 2]),
        (("trainer.accumulate_grad_batches=100",), [1, 2]),
        (("data.batch_size=270",), [1, 2]),
        (("data.batch_size=269",), [2, 4]),
        (("trainer.max_steps=20",), [17, 20]),
        (("trainer.max_steps=17",), [17]),
        (("trainer.max_steps=34",), [17, 34]),
    ],
)
def test_global_step_counts_optimizer_steps(run_train: RunTrain, overrides: tuple[str, ...], steps: list[int]) -> None:
    run = run_train(*SMALL, *overrides, "trainer.steps_per_execution=7")
    assert [int(row["step"]) for row in rows(run)] == steps
    assert checkpoint(run.last)["global_step"] == run.read_status()["step"] == steps[-1]


def test_accumulation_adds_up_the_gradient_of_one_large_batch(run_train: RunTrain) -> None:
    """256 images divide evenly: SGD on 4 x 16 takes the steps of SGD on 64, in whatever order the images come."""
    even = (*QUIET, "data.limit=256", "data.val_fraction=0", "optimizer=sgd", "lr=0.5", "trainer.max_epochs=1")
    small = run_train(*even, "data.batch_size=16", "trainer.accumulate_grad_batches=4")
    large = run_train(*even, "data.batch_size=64")
    assert small.read_status()["step"] == large.read_status()["step"] == 4
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulated", [3, 4, 4100])
def test_a_short_last_step_is_the_mean_over_its_images(run_train: RunTrain, accumulated: int) -> None:
    """115 images in batches of 16, the last of 3: the step that is left over is an ordinary one of what it has."""
    uneven = (*QUIET, "data.limit=115", "data.val_fraction=0", "optimizer=sgd", "lr=0.5", "trainer.max_epochs=2")
    small = run_train(*uneven, "data.batch_size=16", f"trainer.accumulate_grad_batches={accumulated}")
    large = run_train(*uneven, f"data.batch_size={min(115, 16 * accumulated)}")
    assert small.read_status()["step"] == large.read_status()["step"]
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped(run_train: RunTrain, algorithm: str) -> None:
    """One step of SGD at lr 1 moves the weights by the clipped gradient."""
    one_step = (*QUIET, "data.limit=64", "data.val_fraction=0", "data.batch_size=64", "trainer.max_epochs=1")
    free = (*one_step, "optimizer=sgd", "lr=1", f"trainer.gradient_clip_algorithm={algorithm}")
    runs = [run_train(*free, f"trainer.gradient_clip_val={value}") for value in (1e-12, 0.01, 1e9)]
    start, *ends = ([v for k, v in weights(run).items() if k.startswith("net.")] for run in runs)
    moves = [torch.cat([(after - before).flatten() for after, before in zip(e, start, strict=True)]) for e in ends]
    order = 2 if algorithm == "norm" else math.inf
    clipped, unclipped = (torch.linalg.vector_norm(move, order).item() for move in moves)
    assert clipped == pytest.approx(0.01, rel=1e-3) and unclipped > 0.02


def test_schedulers_go_to_the_end_of_the_run(run_train: RunTrain) -> None:
    """lr in metrics.csv is the one that the next step would take."""
    cosine = run_train(*SMALL, "scheduler=cosine", "lr=0.01")
    per_epoch = run_train(*SMALL, "scheduler=cosine", "scheduler.interval=epoch", "lr=0.01")
    accumulated = run_train(*SMALL, "scheduler=cosine", "trainer.accumulate_grad_batches=4", "lr=0.01")
    stopped = run_train(*SMALL, "scheduler=cosine", "trainer.max_steps=20", "lr=0.01")
    halfway = 0.005
    for run in (cosine, accumulated):
        assert [float(row["lr"]) for row in rows(run)] == [pytest.approx(halfway), pytest.approx(0, abs=1e-12)]
    assert [float(row["lr"]) for row in rows(per_epoch)] == [0.01, pytest.approx(halfway)]
    assert float(rows(stopped)[-1]["lr"]) == pytest.approx(0, abs=1e-12)


# 17 batches an epoch, 2 epochs: how many epochs and steps are trained.
LENGTHS = {
    "a number of batches": (("trainer.limit_train_batches=10",), 2, 20),
    "more than there are": (("trainer.limit_train_batches=1000",), 2, 34),
    "a part of them": (("trainer.limit_train_batches=0.5",), 2, 16),
    "accumulated": (("trainer.limit_train_batches=10", "trainer.accumulate_grad_batches=4"), 2, 6),
    "max_steps": (("trainer.limit_train_batches=10", "trainer.max_steps=13"), 2, 13),
    "debug=limit": (("debug=limit", "trainer.limit_train_batches=5"), 2, 10),
    "fast_dev_run": (("debug=fast_dev_run",), 1, 1),
    "fast_dev_run of 5 batches": (("trainer.fast_dev_run=5",), 1, 5),
}


@pytest.mark.parametrize("scheduler", ["cosine", "onecycle"])
@pytest.mark.parametrize(("settings", "epochs", "steps"), LENGTHS.values(), ids=LENGTHS.keys())
def test_schedules_end_with_what_is_trained(
    run_train: RunTrain, settings: tuple[str, ...], epochs: int, steps: int, scheduler: str
) -> None:
    run = run_train(*SMALL, *settings, f"scheduler={scheduler}", "lr=0.01")
    last = rows(run)[-1]
    assert (int(last["epoch"]), int(last["step"])) == (epochs, steps)
    # After the last step cosine stands at its end, and onecycle one step before it: its first lr is its start.
    (saved,) = checkpoint(run.last)["lr_schedulers"]
    assert saved["last_epoch"] == steps == saved["T_max" if scheduler == "cosine" else "total_steps"]


def test_limited_epochs_do_not_depend_on_steps_per_execution(run_train: RunTrain) -> None:
    settings = (*SMALL, "trainer.limit_train_batches=10", "trainer.accumulate_grad_batches=4", "scheduler=onecycle")
    one, many = (run_train(*settings, f"trainer.steps_per_execution={k}") for k in (1, 7))
    assert_equal(weights(many), weights(one))
    assert rows(many) == rows(one) and [row["step"] for row in rows(one)] == ["3", "6"]


def test_a_last_batch_that_is_never_trained_is_no_reason_to_refuse(run_train: RunTrain) -> None:
    run_train(*SMALL, "data.batch_size=269", "model.batch_norm=true", "trainer.limit_train_batches=1")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_part_of_the_batches_that_comes_to_none_is_refused_before_training(
    run_train: RunTrain, tmp_path: Path, split: str
) -> None:
    one_batch = (*SMALL, "data.batch_size=270")
    with pytest.raises(ConfigError, match=rf"trainer\.limit_{split}_batches=0\.5: less than one of 1 batches; a smal"):
        run_train(*one_batch, f"trainer.limit_{split}_batches=0.5")
    assert not (tmp_path / "runs").exists()


def test_a_part_of_the_evaluation_batches_is_evaluated(run_train: RunTrain, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate, seen = Classifier._evaluate, {"val": 0, "test": 0}

    def counted(module: Classifier, metrics: SplitMetrics, batch: Batch) -> Tensor:
        if module._trainer is not None:  # else it is the dry run's copy
            seen["val" if metrics is module.val_metrics else "test"] += len(batch[1])
        return evaluate(module, metrics, batch)

    monkeypatch.setattr(Classifier, "_evaluate", counted)
    parts = ("trainer.limit_val_batches=0.5", "trainer.limit_test_batches=0.5", "data.eval_batch_size=15")
    run_train(*SMALL, *parts, "trainer.max_epochs=1")  # 30 and 360 images
    assert seen == {"val": 15, "test": 180}


def test_plateau_lowers_lr_after_patience(run_train: RunTrain) -> None:
    """At a vanishing lr nothing improves after the first epoch; of equal epochs the last is the best."""
    overrides = ("scheduler=plateau", "scheduler.patience=1", "scheduler.factor=0.5", "optimizer=sgd", "lr=1e-6")
    run = run_train(*SMALL, *overrides, "trainer.max_epochs=6")
    assert [float(row["lr"]) for row in rows(run)] == pytest.approx([1e-6, 1e-6, 1e-6, 5e-7, 5e-7, 2.5e-7])
    assert run.read_status()["best_epoch"] == 6
