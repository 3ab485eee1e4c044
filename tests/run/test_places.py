"""What a stranger's checkpoint, run or sweep names is data: its paths stay inside the directory."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from by_hand import write_sweep
from conftest import Compose
from lithydra.checks.verbs import check_verb
from lithydra.errors import ConfigError
from lithydra.run.directory import RunDir
from lithydra.run.locks import own
from lithydra.run.trust import refuse_places
from lithydra.sweeps.directory import Job, SweepDir, config_key, readable_name
from lithydra.sweeps.job import run_job
from lithydra.training.checkpoint import RunCheckpoint
from lithydra.training.resuming import resumed
from strangers import MARK, Node, Victim, bare, write
from sweeping import QUICK, sweep

PROMISE = "15. A stranger's files are data"


@pytest.mark.counted("places outside the run directory")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("logger.csv.save_dir", "/home/victim"),
        ("logger.csv.save_dir", "conf"),
        ("logger.csv.save_dir", "~/x"),
        ("logger.csv.save_dir", "${run}/../victim"),
        ("logger.csv.save_dir", "${run}x"),
        ("logger.csv.name", "../../victim"),
        ("logger.csv.version", "/home/victim"),
        ("logger.csv.tracking_uri", "http://stranger.example"),
        ("logger.csv.settings.base_url", "https://stranger.example"),
        ("logger.csv.tracking_uri", "file:/home/victim"),
        ("logger.csv.tracking_uri", "file:OUTPUTS/../victim"),
        ("logger.csv.tracking_uri", "file://stranger.example/OUTPUTS"),
        ("logger.csv.tracking_uri", "sqlite:////home/victim.db"),
        ("logger.csv.tracking_uri", "sqlite:///outputs/../victim.db"),
        ("logger.csv.tracking_uri", "sqlite:///OUTPUTS/x.db?uri=true"),
        ("logger.csv.artifact_location", "file:/home/victim"),
        ("logger.csv.artifact_location", "victim"),
        ("callbacks.keep.dirpath", "/home/victim"),
        ("callbacks.keep.filename", "../x"),
        ("callbacks.keep.exclude_batches_path", "x"),
        ("trainer.default_root_dir", "/home/victim"),
        ("trainer.model_registry", "stranger"),
    ],
)
def test_a_stored_place_outside_the_run_is_refused(key: str, value: str, tmp_path: Path) -> None:
    value = value.replace("OUTPUTS", str(tmp_path))
    stored: Any = value
    for part in reversed(key.split(".")):
        stored = {part: stored}
    with pytest.raises(ConfigError, match=rf"^x: {re.escape(f'{key}={value}')}: would write outside the run's"):
        refuse_places(stored, "x", {}, str(tmp_path))
    refuse_places(stored, "x", stored, str(tmp_path))  # what the person says themselves is theirs


def test_places_inside_the_run_need_no_word(tmp_path: Path) -> None:
    logger = {"save_dir": "${run}", "name": "", "version": "csv", "tracking_uri": f"file:{tmp_path}/mlruns"}
    stop = {"monitor": "val/acc", "dirpath": "${run}/best", "filename": "{epoch}", "verbose": True}
    trainer = {"profiler": "simple", "precision": "32-true", "strategy": "auto"}
    refuse_places({"logger": {"x": logger}, "callbacks": {"x": stop}, "trainer": trainer}, "x", {}, str(tmp_path))


@pytest.mark.parametrize("outputs", ["outputs", "/somewhere/outputs"])
def test_the_store_that_mlflow_has_for_all_runs_needs_no_word(compose: Compose, outputs: str) -> None:
    config = OmegaConf.to_container(compose("logger=mlflow", f"paths.outputs={outputs}", "run=x"), resolve=True)
    assert isinstance(config, dict)
    mlflow = config["logger"]["mlflow"] | {"tags": {}}
    assert mlflow["tracking_uri"] == f"sqlite:///{outputs}/mlflow.db"
    refuse_places({"logger": {"mlflow": mlflow}}, "x", {}, outputs)


def test_data_are_prepared_where_the_person_has_theirs(stranger: RunDir, compose: Compose, data_dir: Path) -> None:
    config = stranger.read_config()
    stranger.update_status(state="interrupted")
    for theirs, expected in (("/nowhere", str(data_dir)), (str(data_dir), str(data_dir))):
        config["data"]["dir"] = theirs
        write(stranger, config)
        assert resumed(stranger, compose(f"resume={stranger.path}"), []).data.dir == expected
    given = compose(f"resume={stranger.path}", "data.dir=/new")
    assert resumed(stranger, given, ["data.dir=/new"]).data.dir == "/new"


# Sweeps


@pytest.mark.counted("names in sweep.json that are paths")
@pytest.mark.parametrize("key", ["run", "name", "key"])
@pytest.mark.parametrize("value", ["../../../victim", "/victim", "..", ".", "", "a/b", "a\\b", "a'b"])
def test_a_job_stays_inside_its_sweep(tmp_path: Path, key: str, value: Any) -> None:
    directory = write_sweep(tmp_path / "s", {"lr": ["0.1"]}, lambda point: 0.5)
    plan = json.loads(directory.file.read_text())
    plan["jobs"][0][key] = value
    directory.file.write_text(json.dumps(plan))
    with pytest.raises(ConfigError, match=rf"^sweep\.json: a job's {key} is .*: not a name of letters"):
        directory.read()


def test_names_of_jobs_are_names(tmp_path: Path) -> None:
    for key, value in (("+data/x", "a/b"), ("~x", ".."), ("group@place", "a'b"), ("++a.b", "")):
        name = readable_name({key: value})
        assert Job("0", name, [], name).run == name


def freeze(directory: SweepDir, job: Job, config: Node) -> None:
    """As a stranger would, who may change the key too."""
    plan = directory.read()
    changed = replace(job, key=config_key(config))
    plan.jobs = [changed if other == job else other for other in plan.jobs]
    directory.freeze(changed, config)
    directory.write(plan)


def test_a_sweep_goes_on_without_running_what_a_stranger_froze(victim: Victim, tmp_path: Path, data_dir: Path) -> None:
    options: Node = {"folder": tmp_path / "work", "data_dir": data_dir}
    first = sweep("seed=0,1", *QUICK, "trainer.max_epochs=1", **options)
    assert first.code == 0, first.output
    directory, (job, other) = first.sweep, first.sweep.read().jobs
    config = directory.config(job)
    config["loss"]["weight"] = victim.gadgets["mkdir"]
    freeze(directory, job, config)
    directory.run(job).update_status(state="interrupted")
    again = sweep("seed=0,1", *QUICK, "trainer.max_epochs=1", **options)
    assert again.code == 2 and victim.is_whole()
    refusal = [line for line in again.output.splitlines() if line.startswith("error: ")]
    assert len(refusal) == 1 and "loss.weight._target_=os.mkdir: neither lithydra's" in refusal[0]
    assert directory.state(other) == "finished"


def test_a_job_of_any_launcher_is_refused(victim: Victim, tmp_path: Path, compose: Compose) -> None:
    directory = write_sweep(tmp_path / "s", {"lr": ["0.1"]}, lambda point: 0.5, states={"lr=0.1": "not started"})
    (job,) = directory.read().jobs
    freeze(directory, job, {"model": victim.gadgets["mkdir"]})
    with pytest.raises(ConfigError, match=r"^sweep\.job=lr=0\.1: model\._target_=os\.mkdir: "):
        run_job(directory.path, job.name, compose())
    assert victim.is_whole() and not directory.run(job).path.exists()


# Links


@pytest.mark.counted("links out of a directory")
@pytest.mark.parametrize("name", ["checkpoints", "plots", "train.log", "command.txt", ".owner", ".lock", "export/a"])
def test_nothing_is_written_through_a_link(victim: Victim, stranger: RunDir, data_dir: Path, name: str) -> None:
    path = stranger.path / name
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(victim.folder / MARK)
    refused = rf"{re.escape(name)}: a link to .*{MARK}, out of .*; nothing is written there$"
    with pytest.raises(ConfigError, match=refused):
        own(stranger)
    with pytest.raises(ConfigError, match=refused), SweepDir(stranger.path).owned():
        pass
    if name != "checkpoints":
        with pytest.raises(ConfigError, match=refused):
            check_verb(bare("export", data_dir, stranger), "export")
    assert victim.is_whole()


def test_links_within_a_run_and_to_it_are_followed(stranger: RunDir, tmp_path: Path) -> None:
    (stranger.path / "best.ckpt").symlink_to("checkpoints/best.ckpt")
    (tmp_path / "link").symlink_to(stranger.path)
    with own(RunDir(tmp_path / "link")):
        pass


def test_the_link_of_wandb_to_its_cache_is_left_alone(stranger: RunDir, tmp_path: Path) -> None:
    logs = stranger.path / "wandb" / "offline-run-20261126_172829-u6bz06pd" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to(tmp_path / "cache.log")
    with own(stranger):
        pass
    (logs / "debug.log").symlink_to(tmp_path / "cache.log")
    with pytest.raises(ConfigError, match=r"debug\.log: a link to .*, out of .*; nothing is written there$"):
        own(stranger)


def test_a_checkpoint_sets_no_more_of_a_callback_than_its_state() -> None:
    keeper = RunCheckpoint("val/acc", "max")
    keeper.load_state_dict({"best_epoch": 3, "monitor": "x", "save_within_epoch": "y"})
    assert (keeper.best_epoch, keeper.monitor, callable(keeper.save_within_epoch)) == (3, "val/acc", True)
