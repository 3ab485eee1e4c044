"""Promise 13: what two processes on this machine's CPU make of a run is what one makes of it."""

import ast
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_interrupts import wait_until

import lithydra
from conftest import Compose, rows, write_npz
from killing import SignalAt, differences, outcome
from lithydra.checks.config import check
from lithydra.errors import ConfigError
from lithydra.run import page, plots
from lithydra.run.checkpoints import load
from lithydra.run.directory import RunDir
from lithydra.training import build
from lithydra.training.dry_run import try_out
from lithydra.training.loading import load_data
from lithydra.training.position import random_state, take_random_state
from lithydra.training.start import open_run
from ranks import OWN, PLAIN, Runs, ended

PROMISE = "13. Several processes, one result"


@pytest.mark.counted("batch sizes x last batches: equal to one process")
@pytest.mark.parametrize("last", [1, 3])
@pytest.mark.parametrize("batch_size", [16, 17, 18])
def test_two_processes_train_as_one(runs: Runs, batch_size: int, last: int) -> None:
    size = ("data.val_fraction=0", f"data.limit={7 * batch_size + last}", f"data.batch_size={batch_size}")
    one, two = (runs.finished(name, *PLAIN, *size, f"accelerator={name}") for name in ("cpu", "ddp_cpu"))
    assert_alike(one, two)


def test_two_processes_orthogonalize_as_one(runs: Runs) -> None:
    settings = ("callbacks=none", "logger=none", "data.limit=257", "model=cnn", "model.channels=[4,6]")
    settings = (*settings, "optimizer=muon", "optimizer_groups=no_decay", "trainer.max_epochs=2")
    one, two = (runs.finished(name, *settings, f"accelerator={name}") for name in ("cpu", "ddp_cpu"))
    assert_alike(one, two)


def assert_alike(one: RunDir, two: RunDir) -> None:
    """Equal weights, up to rounding, and training images counted once."""
    for name, value in load(one.last)["state_dict"].items():
        torch.testing.assert_close(load(two.last)["state_dict"][name], value, rtol=0, atol=1e-5)
    for first, second in zip(rows(one), rows(two), strict=True):
        assert second["train/acc"] == first["train/acc"] and second["step"] == first["step"]
        for name in ("train/macro_f1", "train/calibration_error") if "train/macro_f1" in first else ():
            assert float(second[name]) == pytest.approx(float(first[name]), abs=1e-5)


DIVIDED = {
    "accumulation, penalty, clipping": (
        "trainer.accumulate_grad_batches=4",
        "regularizer=elastic_net",
        "trainer.gradient_clip_val=0.1",
        "trainer.steps_per_execution=3",
    ),
    "all of an epoch accumulated": ("trainer.accumulate_grad_batches=4100", "regularizer=l2"),
    "fewer images than processes in a batch": ("data.batch_size=1", "data.limit=20"),
}


@pytest.mark.counted("other divisions: equal to one process")
@pytest.mark.parametrize("settings", DIVIDED.values(), ids=DIVIDED.keys())
def test_other_divisions_train_as_one(runs: Runs, settings: tuple[str, ...]) -> None:
    size = ("data.val_fraction=0", "data.limit=120", "data.batch_size=17", "scheduler=cosine")
    one, two = (runs.finished(name, *PLAIN, *size, *settings, f"accelerator={name}") for name in ("cpu", "ddp_cpu"))
    assert_alike(one, two)


def test_fewer_evaluation_images_than_processes(runs: Runs, tmp_path: Path) -> None:
    write_npz(tmp_path / "one.npz", num_classes=2, shape=(8, 8), num_train=40, num_test=1)
    data = ("data=npz", f"data.path={tmp_path / 'one.npz'}", "data.batch_size=8", "data.val_fraction=0.05")
    one, two = (runs.finished(name, *PLAIN, *data, f"accelerator={name}") for name in ("cpu", "ddp_cpu"))
    assert_alike(one, two)
    for name, value in one.read_status()["metrics"].items():
        assert two.read_status()["metrics"][name] == pytest.approx(value, rel=1e-4)


def test_chunks_of_steps_change_nothing_in_two_processes(runs: Runs) -> None:
    settings = (*OWN, "trainer.accumulate_grad_batches=2")
    one, many = (runs.finished(k, *settings, f"trainer.steps_per_execution={k}") for k in ("1", "7"))
    assert differences(outcome(one), outcome(many)) == []


@pytest.mark.parametrize("average", ["ema", "lookahead"])
def test_two_processes_validate_the_statistics_that_are_saved(runs: Runs, average: str) -> None:
    run = runs.finished("run", *OWN, f"average={average}")
    module = lithydra.load(run.path, "last")
    val = load_data(module.record, str(runs.data_dir)).val
    images, labels = next(val.batches([torch.arange(len(val))]))
    assert float(rows(run)[-1]["val/loss"]) == pytest.approx(module.loss(module(images), labels).item(), abs=1e-5)


def test_each_process_draws_its_own_random_numbers() -> None:
    def drawn(saved: list[dict], rank: int) -> float:
        torch.manual_seed(0)
        take_random_state(saved, rank)
        return torch.rand(()).item()

    torch.manual_seed(0)
    first = torch.rand(()).item()
    assert drawn([], 0) == first
    assert len({drawn([], rank) for rank in range(4)}) == 4
    torch.manual_seed(7)
    saved = [random_state(), random_state()]
    torch.rand(1)
    saved[1] = random_state()
    resumed = [drawn(saved, rank) for rank in range(4)]
    torch.manual_seed(7)
    assert resumed[:2] == torch.rand(2).tolist() and len(set(resumed)) == 4


def test_two_runs_after_each_other_in_one_process(runs: Runs) -> None:
    """As a notebook does, or a launcher that keeps its workers."""

    def twice() -> None:
        runs.train(*PLAIN, "accelerator=ddp_cpu", "data.limit=100", f"run={runs.folder / 'first'}")

    run = runs.finished("second", *PLAIN, "accelerator=ddp_cpu", "data.limit=100", prepare=twice)
    assert differences(outcome(RunDir(runs.folder / "first")), outcome(run)) == []


def test_two_processes_draw_once_what_both_have_seen(runs: Runs) -> None:
    drawn = runs.folder / "drawn"

    def watch() -> None:
        for module, name, say in (
            (plots, "save", lambda figure, path: path.stem),
            (plots, "confusion", lambda counts, names, title: counts.tolist()),
            (plots, "guesses", lambda items, *_: [item.probability for item in items]),
            (page, "write", lambda run: ""),
        ):
            setattr(module, name, noted(name, getattr(module, name), say))

    def noted(name: str, original: Any, say: Any) -> Any:
        def call(*arguments: Any) -> Any:
            with drawn.open("a") as file:
                print(os.environ.get("LOCAL_RANK", "0"), name, say(*arguments), sep="|", file=file)
            return original(*arguments)

        return call

    settings = ("callbacks=plots", "logger=none", "data.eval_batch_size=50", "trainer.max_epochs=1", "data.limit=320")
    run = runs.finished("run", "accelerator=ddp_cpu", *settings, prepare=watch)
    lines = [line.split("|") for line in drawn.read_text().splitlines()]
    assert {rank for rank, _, _ in lines} == {"0"}
    pictures = ["confusion", "curves", "filters", "mistakes", "reliability", "samples"]
    assert sorted(said for _, name, said in lines if name == "save") == pictures
    assert sum(name == "write" for _, name, _ in lines) == 1
    assert sorted(path.stem for path in run.plots.iterdir()) == pictures and run.page.exists()

    with np.load(runs.data_dir / "digits.npz") as file:
        images, labels = file["x_test"], file["y_test"]
    module = lithydra.load(run.path)
    with torch.no_grad():
        probabilities = module.probabilities(module(torch.from_numpy(images)[:, None])).numpy()
    predicted = probabilities.argmax(1)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels, predicted), 1)
    ((counts,), (mistakes,)) = (
        [ast.literal_eval(said) for _, name, said in lines if name == wanted] for wanted in ("confusion", "guesses")
    )
    assert np.sum(counts) == len(labels) and (np.array(counts) == expected).all()
    surest = np.sort(probabilities[predicted != labels].max(1))[::-1][:24]
    assert mistakes == pytest.approx(surest.tolist(), abs=1e-5)


def test_the_main_process_is_whom_lightning_calls_so(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert build.place(compose()).is_global_zero  # alone, whatever the environment is of
    several = build.place(compose("accelerator=ddp_cpu", "trainer.num_nodes=2"))
    assert (several.global_rank, several.world_size) == (2, 4)


def test_one_task_of_slurm_starts_the_other_processes_itself(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a job of hydra/launcher=submitit_slurm does with tasks_per_node=1 and several devices."""
    slurm = {"NTASKS": "1", "JOB_ID": "7", "JOB_NAME": "submitit", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    run = runs.finished("run", *PLAIN, "data.limit=100", "accelerator=ddp_cpu")
    assert json.loads(run.provenance.read_text())["trainer"]["num_processes"] == 2


def test_a_further_machine_joins_the_run_that_the_first_has_begun(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "status.json").write_text('{"state": "running"}')
    config = compose("accelerator=ddp_cpu", "trainer.num_nodes=2", f"run={tmp_path}")
    with pytest.raises(ConfigError, match="holds a run already"):
        check(config)
    monkeypatch.setenv("NODE_RANK", "1")
    check(config)
    assert open_run(config, {}, main=False).path == tmp_path
    config.run = None
    with pytest.raises(ConfigError, match="processes on several machines need a directory that all of them see"):
        open_run(config, {}, main=False)


def test_what_several_processes_cannot_do_is_refused(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose("accelerator=ddp_cpu", "model=nearest_mean", "optimizer=lbfgs")
    with pytest.raises(ConfigError, match="optimizer=lbfgs: each process would search along its own line"):
        build.place(config)
    data = build.data(config)
    with pytest.raises(ConfigError, match="model: NearestMean learns in one process"):
        try_out(config, data, build.classifier(config, data), build.place(compose("accelerator=ddp_cpu")))
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.accelerator_connector._IS_INTERACTIVE", True)
    with pytest.raises(ConfigError, match=r"trainer\.devices=2: one in a notebook"):
        build.place(compose("trainer.devices=2"))


def test_the_smallest_share_is_tried_before_training(compose: Compose) -> None:
    config = compose("model.batch_norm=true", "data.val_fraction=0", "data.limit=99", "data.batch_size=32")
    data = build.data(config)
    try_out(config, data, build.classifier(config, data), build.place(config))
    with pytest.raises(ConfigError, match="has 3, 1 for one of 2 processes, which the model does not take"):
        try_out(config, data, build.classifier(config, data), build.place(compose("accelerator=ddp_cpu")))


def test_the_number_of_processes_may_change_on_resume(runs: Runs) -> None:
    """In mid-epoch: what each had counted is not lost."""
    run = RunDir(runs.folder / "run")
    plain = (*PLAIN, "data.limit=257", "data.batch_size=16", "checkpoint.every_n_steps=3")
    whole = runs.finished("whole", *plain)
    kill = SignalAt("batch", 20, signal.SIGKILL)
    settings = ("accelerator=ddp_cpu", "trainer.steps_per_execution=4", f"run={run.path}")
    assert ended(runs.start(*plain, *settings, prepare=kill.install)) == -signal.SIGKILL
    wait_until(runs.rank_is_gone)
    assert ended(runs.start(f"resume={run.path}")) == 0, runs.log.read_text()
    assert_alike(whole, run)
