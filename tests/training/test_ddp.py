"""Promise 13: what two processes on this machine's CPU make of a run is what one makes of it."""

import ast
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from test_interrupts import wait_until

import lithydra
from conftest import QUIET, ROOT, Compose, rows, write_npz
from killing import SignalAt, differences, outcome
from lithydra.checks.config import check
from lithydra.data.loaders import TrainingBatch
from lithydra.errors import ConfigError
from lithydra.run import page, plots
from lithydra.run.checkpoints import load
from lithydra.run.directory import RunDir
from lithydra.run.signals import EXIT_CODES
from lithydra.training import build, processes, rank
from lithydra.training.checkpoint import RunCheckpoint
from lithydra.training.dry_run import try_out
from lithydra.training.engine import GradientClassifier
from lithydra.training.position import random_state, take_random_state
from lithydra.training.start import open_run
from ranks import ForkedRank, Runs, ended
from sweeping import sweep

PROMISE = "13. Several processes, one result"

MEASURED = ("metrics=[accuracy,macro_f1,calibration_error]", "train_metrics=true")  # a sum and a list of each process
PLAIN = (*MEASURED, *QUIET, "model.hidden=[16]", "optimizer=sgd", "lr=0.3", "trainer.max_epochs=2")


@pytest.fixture
def runs(data_dir: Path, tmp_path: Path) -> Runs:
    return Runs(data_dir, tmp_path)


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


# What the processes have to themselves: dropout and augmentation, BatchNorm's statistics, and sums in mid-epoch.
OWN = (
    "accelerator=ddp_cpu",
    *MEASURED,
    *QUIET,
    "data.limit=257",
    "data.batch_size=16",
    "trainer.max_epochs=3",
    "model.hidden=[16]",
    "model.dropout=0.3",
    "model.batch_norm=true",
    "augmentation=flip_crop",
    "augmentation.flip_crop.padding=1",
    "scheduler=onecycle",
    "trainer.steps_per_execution=4",
    "checkpoint.every_n_steps=3",
)


@pytest.fixture(scope="module")
def reference(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """How an uninterrupted run of two processes ends."""
    return outcome(Runs(data_dir, tmp_path_factory.mktemp("reference")).finished("run", *OWN))


TARGETS = {"main": {"rank": 0}, "other": {"rank": 1}, "all": {"rank": 0, "group": True}}
POINTS = {"set-up": "fit start", "training": "batch", "validation": "validation", "test": "test"}
FAST = {("training", "other", signal.SIGTERM), ("validation", "all", signal.SIGINT), ("test", "other", signal.SIGTERM)}


@pytest.mark.counted("signals to one of two processes, or to both: saved, stopped, resumed bit-equal")
@pytest.mark.parametrize(
    ("point", "target", "number"),
    [
        pytest.param(point, TARGETS[target], number, id=f"{number.name} to {target} in {phase}", marks=marks)
        for number in EXIT_CODES
        for target in TARGETS
        for phase, point in POINTS.items()
        for marks in [[] if (phase, target, number) in FAST else [pytest.mark.slow]]
    ],
)
def test_a_signal_to_any_process_stops_all(
    runs: Runs, reference: dict, point: str, target: dict, number: signal.Signals
) -> None:
    run, kill = RunDir(runs.folder / "run"), SignalAt(point, 1, number, **target)
    assert ended(runs.start(*OWN, f"run={run.path}", prepare=kill.install)) == EXIT_CODES[number]
    assert run.read_status()["state"] == "interrupted"
    assert f"Go on with: python train.py resume={run.path}" in run.read_status()["error"]
    assert runs.rank_is_gone()
    assert ended(runs.start(f"resume={run.path}", "accelerator=ddp_cpu")) == 0, runs.log.read_text()
    assert differences(reference, outcome(run)) == []


@pytest.mark.counted("clocks: saved within the epoch, ended alike")
@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))])
def test_saves_by_the_clock_are_the_main_process_s(runs: Runs, reference: dict, number: int) -> None:
    """Each process would save at another step by its own clock, and wait there for the others."""

    def note() -> None:
        save = RunCheckpoint.save_within_epoch

        def noted(self: RunCheckpoint, trainer: L.Trainer) -> None:
            with (runs.folder / f"saved{trainer.global_rank}").open("a") as file:
                file.write(f"{trainer.global_step}\n")
            save(self, trainer)

        RunCheckpoint.save_within_epoch = noted

    seconds = 0.002 * (number + 1)
    settings = (*OWN, "checkpoint.every_n_steps=null", f"checkpoint.every_seconds={seconds}")
    run = RunDir(runs.folder / "run")
    assert ended(runs.start(*settings, f"run={run.path}", prepare=note)) == 0, runs.log.read_text()
    saves = [runs.folder / f"saved{rank}" for rank in (0, 1)]
    main, other = (path.read_text() if path.exists() else "" for path in saves)
    assert main == other and (main or seconds > 0.01)  # an epoch may be shorter than the longer intervals
    assert differences(reference, outcome(run)) == []


KILLS = [("batch", 20, 0), ("batch", 9, 1), ("validation", 2, 0), ("saving", 30, 0), ("before rename", 3, 0)]
KILLS += [("before optimizer step", 7, 1), ("epoch end", 2, 0), ("after optimizer step", 30, 1)]


@pytest.mark.counted("kill -9 of one of two processes: resumed bit-equal")
@pytest.mark.parametrize(
    ("point", "passage", "rank"), [KILLS[0], *(pytest.param(*kill, marks=pytest.mark.slow) for kill in KILLS[1:])]
)
def test_a_killed_run_of_two_processes_resumes_bit_for_bit(
    runs: Runs, reference: dict, point: str, passage: int, rank: int
) -> None:
    run, kill = RunDir(runs.folder / "run"), SignalAt(point, passage, signal.SIGKILL, rank=rank)
    code = ended(runs.start(*OWN, f"run={run.path}", prepare=kill.install))
    assert code == (1 if rank else -signal.SIGKILL)
    wait_until(runs.rank_is_gone)
    assert ended(runs.start(f"resume={run.path}", "accelerator=ddp_cpu")) == 0, runs.log.read_text()
    assert differences(reference, outcome(run)) == []


def test_a_process_that_is_lost_ends_the_run_with_one_line(runs: Runs) -> None:
    run, kill = RunDir(runs.folder / "run"), SignalAt("batch", 3, signal.SIGKILL, rank=1)
    assert ended(runs.start(*OWN, f"run={run.path}", prepare=kill.install)) == 1
    status = run.read_status()
    assert status["state"] == "failed"
    assert status["error"] == "Process 1 of 2 (from 0) ended by itself (signal 9)"


def test_a_process_that_is_lost_before_they_meet_ends_the_run(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing wakes the main process then: it waits where no exception comes from."""
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)

    def fail() -> None:
        def broken(job: dict) -> int:
            print("no such file: weights", flush=True)
            return 7

        rank._carry_out = broken

    run = RunDir(runs.folder / "run")
    assert ended(runs.start(*OWN, f"run={run.path}", prepare=fail)) == 1
    assert run.read_status()["error"] == "Process 1 of 2 (from 0) ended by itself (exit code 7)"
    assert "The last that process 1 said:\nno such file: weights" in run.log.read_text()


def test_a_process_that_diverges_stops_all(runs: Runs) -> None:
    """Its loss alone is not finite, in the middle of a step's batches: the weights are as yet the same in all."""

    def break_images() -> None:
        train: Any = GradientClassifier._train

        def broken(self: GradientClassifier, batch: TrainingBatch, *rest: Any, **options: Any) -> Any:
            if batch.number == 6 and self.trainer.global_rank == 1:
                batch = batch._replace(images=batch.images * math.nan)
            return train(self, batch, *rest, **options)

        GradientClassifier._train = broken  # pyright: ignore[reportAttributeAccessIssue]

    run = RunDir(runs.folder / "run")
    settings = (*PLAIN, "accelerator=ddp_cpu", "trainer.accumulate_grad_batches=4", "data.limit=257", f"run={run.path}")
    code = ended(runs.start(*settings, "trainer.steps_per_execution=7", prepare=break_images))
    assert code == 3, runs.log.read_text()
    assert run.read_status()["state"] == "diverged" and "Diverged at step 2" in run.read_status()["error"]
    assert runs.rank_is_gone()


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


@pytest.mark.slow
@pytest.mark.counted("real commands of two processes: signal, exit code, none left behind")
@pytest.mark.parametrize("target", ["main", "other", "all"])
@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_real_command_of_two_processes(data_dir: Path, tmp_path: Path, number: int, target: str) -> None:
    run = RunDir(tmp_path / "run")
    command = [sys.executable, str(ROOT / "train.py"), "accelerator=ddp_cpu", f"run={run.path}", "logger=none"]
    command += [f"paths.data={data_dir}", "trainer.max_epochs=10000", "data.limit=256", "callbacks=none"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    wait_until(run.last.exists)
    (other,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    if target == "all":
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid if target == "main" else int(other), number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == EXIT_CODES[signal.Signals(number)], output
    assert run.read_status()["state"] == "interrupted"
    assert output.count("Go on with") == 1 and "Traceback" not in output
    assert not Path(f"/proc/{other}").exists()
    resumed = [*command[:3], f"resume={run.path}", f"trainer.max_epochs={len(run.read_metrics()) + 2}"]
    subprocess.run(resumed, cwd=tmp_path, check=True, timeout=120)
    assert run.read_status()["state"] == "finished"


def test_a_sweep_of_runs_on_two_processes(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: dict
) -> None:
    """A job is a fork of a server, which could not be started again as another process of the run."""
    monkeypatch.setattr(processes, "spawn", ForkedRank)
    own = [setting for setting in OWN if not setting.startswith(("data.batch_size", "callbacks", "logger"))]
    given = ("callbacks=none", "logger=none", "data.batch_size=16,17", *own)
    done = sweep(*given, folder=tmp_path, data_dir=data_dir)
    assert done.code == 0, done.output
    assert set(done.states().values()) == {"finished"}
    assert differences(reference, outcome(done.runs()["data.batch_size=16"])) == []


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
