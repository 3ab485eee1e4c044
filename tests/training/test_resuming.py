"""Promise 5: a run goes on as itself; a change that would make it another run is refused with its list."""

from pathlib import Path

import numpy as np
import pytest
from omegaconf import open_dict
from PIL import Image

from conftest import _compose, write_npz
from killing import COMMON, SETTINGS, Killing, differences, outcome
from lithydra.errors import ConfigError
from lithydra.run.checkpoints import load, save
from lithydra.run.directory import RunDir
from lithydra.training.train import train

PROMISE = "5. Resuming as another run is refused"

# Settings of `trainer` in the first form of the program.
BEFORE = {
    *("max_epochs", "max_steps", "precision", "gradient_clip_val", "gradient_clip_algorithm"),
    *("accumulate_grad_batches", "steps_per_execution", "log_every_n_steps", "devices", "num_nodes"),
    *("strategy", "accelerator", "deterministic", "enable_model_summary"),
}
ONE_EPOCH = (*COMMON, "trainer.max_epochs=1", "regularizer=l2")


@pytest.fixture(scope="module")
def run(killing: Killing) -> RunDir:
    """A finished run of one epoch; tests that change it take a copy."""
    path = killing.outputs / "run"
    killing.train(*ONE_EPOCH, f"run={path}")
    return RunDir(path)


@pytest.mark.counted("changes refused")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("lr=0.5", "lr was 0.001, given 0.5"),
        ("optimizer.lr=0.5 resume_anyway=true", "optimizer.lr=0.5: there is one learning rate; say lr=0.5 instead"),
        (
            "scheduler=onecycle scheduler.max_lr=0.5 resume_anyway=true",
            "scheduler.max_lr=0.5: there is one learning rate; say lr=0.5 instead",
        ),
        ("optimizer=sgd", "optimizer._target_ was torch.optim.Adam, given torch.optim.SGD"),
        ("optimizer.eps=1e-3", "optimizer.eps was 1e-08, given 0.001"),
        ("data.batch_size=8", "data.batch_size was 16, given 8"),
        ("data=mnist", "data.name was digits, given mnist"),
        ("data.limit=128", "data.limit was 256, given 128"),
        ("data.val_fraction=0.2", "data.val_fraction was 0.1, given 0.2"),
        ("seed=1", "seed was 0, given 1"),
        ("model.hidden=[8]", "model.hidden was [16], given [8]"),
        ("model=cnn", "model._target_ was lithydra.models.mlp.MLP, given lithydra.models.cnn.CNN"),
        ("normalization=z_score", "normalization._target_ was lithydra.normalization.min_max"),
        (
            "augmentation=cutout",
            "augmentation.cutout._target_ was nothing, given lithydra.augmentations.transforms.cutout",
        ),
        ("loss.label_smoothing=0.1", "loss.label_smoothing was 0.0, given 0.1"),
        ("scheduler=cosine", "scheduler._target_ was nothing, given torch.optim.lr_scheduler.CosineAnnealingLR"),
        ("regularizer=none", "regularizer.l2.weight was 0.0001, given nothing"),
        ("regularizer=l1", "regularizer.l1.weight was nothing, given 0.0001"),
        ("monitor.metric=val/loss monitor.mode=min", "monitor.metric was val/acc, given val/loss"),
        ("accelerator=cpu_bf16", "trainer.precision was 32-true, given bf16-mixed"),
        ("trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches was 1, given 2"),
        ("trainer.gradient_clip_val=1", "trainer.gradient_clip_val was None, given 1"),
        ("callbacks=layer_statistics", "callbacks.layer_statistics.num_images was nothing, given 512"),
        ("experiment=cifar10_cnn", "goes on with its own config; give the settings that experiment= stands for"),
        ("debug=limit", "goes on with its own config"),
        ("optimizer_groups=no_decay", "optimizer_groups.no_decay.parameters was nothing, given ['norms', 'biases']"),
        ("optimizer_groups=no_decay resume_anyway=true", "given 0.0. Train anew to change this"),
        ("init.backbone_lr_factor=0.1", "init.backbone_lr_factor was 1.0, given 0.1"),
        ("init.backbone_lr_factor=0.1 resume_anyway=true", "given 0.1. Train anew to change this"),
        ("lr=0.5 seed=1", "lr was 0.001, given 0.5; optimizer.lr was 0.001, given 0.5; seed was 0, given 1"),
        ("seed=1 resume_anyway=true", "seed was 0, given 1. Train anew to change this"),
        ("data.batch_size=8 resume_anyway=true", "data.batch_size was 16, given 8. Train anew to change this"),
        ("trainer.max_epochs=1", "finished after 1 epochs; trainer.max_epochs=2 would go on"),
        ("logger=none", "finished after 1 epochs; trainer.max_epochs=2 would go on"),
    ],
)
def test_resuming_as_another_run_is_refused(killing: Killing, run: RunDir, overrides: str, message: str) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError) as caught:
        killing.train(f"resume={run.path}", *overrides.split())
    assert message in str(caught.value)
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


def test_a_run_does_not_end_before_what_it_has_trained(killing: Killing, run: RunDir) -> None:
    path = killing.outputs / "longer"
    killing.train(*ONE_EPOCH, f"run={path}", "trainer.max_epochs=2")
    RunDir(path).update_status(state="interrupted")
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs=1: the run is in epoch 2 already"):
        killing.train(f"resume={path}", "trainer.max_epochs=1")


def test_a_schedule_laid_out_over_the_run_does_not_grow(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*COMMON, "scheduler=cosine", "trainer.max_epochs=1", f"run={run.path}")
    with pytest.raises(ConfigError, match=r"scheduler\.T_max was laid out for 1"):
        killing.train(f"resume={run.path}", "trainer.max_epochs=2")


def test_a_config_that_was_edited_by_hand_is_refused(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*ONE_EPOCH, f"run={run.path}")
    config = run.read_config()
    config["optimizer"]["lr"] = 0.5
    run.write_config(config)
    with pytest.raises(ConfigError, match=r"optimizer\.lr was 0\.001, given 0\.5"):
        killing.train(f"resume={run.path}", "trainer.max_epochs=2")
    assert run.read_status()["state"] == "finished"


def test_data_that_have_changed_are_refused(killing: Killing, tmp_path: Path) -> None:
    run, path = RunDir(tmp_path / "run"), tmp_path / "a.npz"
    write_npz(path, num_classes=3, shape=(8, 8), num_train=60, num_test=30)
    data = ("data=npz", f"data.path={path}", "data.limit=null", "data.val_fraction=0.2")
    killing.train(*ONE_EPOCH, *data, f"run={run.path}")
    with np.load(path) as arrays:
        changed = {**arrays, "x_train": arrays["x_train"] // 2}
    np.savez(path, **changed)
    with pytest.raises(ConfigError, match="the data have changed since: x_train"):
        killing.train(f"resume={run.path}", "trainer.max_epochs=2")
    write_npz(path, num_classes=3, shape=(8, 8), num_train=90, num_test=30)
    with pytest.raises(ConfigError, match="trained on number of training images 48, and the data have 72"):
        killing.train(f"resume={run.path}", "trainer.max_epochs=2")


def test_images_that_were_exchanged_are_refused(killing: Killing, tmp_path: Path) -> None:
    """Files of the same names and sizes. A run from before contents were looked at is compared by names and sizes."""
    run, folder = RunDir(tmp_path / "run"), tmp_path / "images"
    for label, name in enumerate("ab"):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(np.full((4, 4), 100 * label + i, np.uint8)).save(folder / name / f"{i}.bmp")
    data = ("data=image_folder", f"data.path={folder}", "data.image_size=4", "data.batch_size=8", "data.limit=null")
    killing.train(*ONE_EPOCH, *data, "data.val_fraction=0.2", f"run={run.path}")
    for old, new in (("a", "x"), ("b", "a"), ("x", "b")):
        (folder / old).rename(folder / new)
    with pytest.raises(ConfigError, match=r"the data have changed since: test_contents, train_contents$"):
        killing.train(f"resume={run.path}", "trainer.max_epochs=2")
    written = load(run.last)
    for key in ("train_contents", "test_contents"):
        del written["record"]["checksums"][key]
    save(written, run.last, run.previous)
    killing.train(f"resume={run.path}", "trainer.max_epochs=2")
    assert len(run.read_metrics()) == 2


def test_with_the_word_a_new_lr_is_taken_and_stays(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*ONE_EPOCH, f"run={run.path}")
    moments = load(run.last)["optimizer_states"][0]["state"]
    killing.train(f"resume={run.path}", "trainer.max_epochs=2", "lr=1e-12", "resume_anyway=true")
    assert [float(row["lr"]) for row in run.read_metrics()] == [0.001, 1e-12]
    assert run.read_config()["optimizer"]["lr"] == 1e-12
    assert load(run.last)["optimizer_states"][0]["state"].keys() == moments.keys()
    killing.train(f"resume={run.path}", "trainer.max_epochs=3")
    assert [float(row["lr"]) for row in run.read_metrics()] == [0.001, 1e-12, 1e-12]


CYCLIC = (
    "scheduler=exponential",
    "scheduler._target_=torch.optim.lr_scheduler.CyclicLR",
    *("+scheduler.base_lr=0.1", "+scheduler.max_lr=0.1", "+scheduler.cycle_momentum=false"),
)


@pytest.mark.parametrize(("scheduler", "refused"), [(("scheduler=onecycle",), True), (CYCLIC, False)])
def test_a_cycle_goes_to_the_lr_of_the_run(
    killing: Killing, tmp_path: Path, scheduler: tuple[str, ...], refused: bool
) -> None:
    """OneCycleLR's max_lr is the learning rate; that of another schedule is a setting like others."""
    run, more = RunDir(tmp_path / "run"), ("+scheduler.max_lr=0.5", "trainer.max_epochs=2", "resume_anyway=true")
    killing.train(*COMMON, *scheduler, "trainer.max_epochs=1", f"run={run.path}")
    if refused:
        with pytest.raises(
            ConfigError, match=r"^\+scheduler\.max_lr=0\.5: there is one learning rate; say lr=0\.5 inst"
        ):
            killing.train(f"resume={run.path}", *more)
    else:
        killing.train(f"resume={run.path}", *more)
        assert run.read_config()["scheduler"]["max_lr"] == 0.5


def test_a_group_takes_over_what_it_has_from_other_settings_of_the_run(killing: Killing, tmp_path: Path) -> None:
    """A new schedule goes to the run's lr, and new early stopping watches what the run monitors."""
    run, watched = RunDir(tmp_path / "run"), ("monitor.metric=val/loss", "monitor.mode=min")
    killing.train(*COMMON, *watched, "lr=0.01", "trainer.max_epochs=1", f"run={run.path}")
    groups = ("scheduler=onecycle", "callbacks=early_stopping", "logger=none")
    killing.train(f"resume={run.path}", *groups, "trainer.max_epochs=2", "resume_anyway=true")
    config = run.read_config()
    assert (config["lr"], config["optimizer"]["lr"], config["scheduler"]["max_lr"]) == (0.01, 0.01, 0.01)
    stopping = config["callbacks"]["early_stopping"]
    assert (stopping["monitor"], stopping["mode"]) == ("val/loss", "min")


def test_max_epochs_may_grow(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*COMMON, *SETTINGS["plateau"], "trainer.max_epochs=1", f"run={run.path}")
    killing.train(f"resume={run.path}", "trainer.max_epochs=3")
    assert differences(killing.reference("plateau"), outcome(run)) == []


def test_a_run_from_before_some_settings_of_the_trainer_goes_on(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    settings = (*COMMON, *SETTINGS["plateau"], "trainer.max_epochs=1", f"run={run.path}")
    config, choices = _compose(*settings, data_dir=killing.data_dir, outputs=killing.outputs)
    with open_dict(config.trainer):
        for key in config.trainer.keys() - BEFORE:
            del config.trainer[key]
    train(config, choices, list(settings))
    killing.train(f"resume={run.path}", "trainer.max_epochs=3")
    assert run.read_config()["trainer"].keys() == BEFORE
    assert differences(killing.reference("plateau"), outcome(run)) == []


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "lr: 3\n"])
def test_a_config_that_is_none_is_refused(killing: Killing, tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml: (cannot be read|not the config of a run)"):
        killing.train(f"resume={tmp_path}")
