"""A sweep's plan: checked whole before anything is written, each point once, frozen."""

import shutil
from itertools import product
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from conftest import CONF
from lithydra import cli
from lithydra.errors import ConfigError
from lithydra.sweeps.directory import config_key, readable_name
from lithydra.sweeps.plan import Request, prepare
from sweeping import QUICK, sweep

BASIC = "hydra/launcher=basic"  # one job after the other in the process that plans them

REFUSED = {
    "lr=0.1,-1,0.01,0": ["lr=-1: must be a number above 0", "lr=0: must be a number above 0"],
    "optimizer=sgd,adma": ["optimizer=adma: choose one of", "Did you mean adam?"],
    "model.hiden=[8],[9]": ["model.hiden: no such setting. Did you mean model.hidden?"],
    "model=mlp,null": ["model=null: must be the name of a choice, airbench, "],
    "scheduler=[cosine,step],none": ["scheduler: takes one choice, scheduler=NAME"],
    "seed=range(0,1,0)": ["seed=range(0,1,0): range() arg 3 must not be zero"],
    "seed=range(0,0)": ["seed=range(0,0): an empty list; nothing to sweep over"],
    "lr=interval(0.1,1)": [
        "lr=interval(0.1,1): hydra/sweeper=grid takes a,b,c or range(0,5); an interval needs hydra/sweeper=optuna"
    ],
    "seed=0,1 sweep.n_jobs=0": ["sweep.n_jobs=0: must be a whole number at least 1"],
    "seed=0,1 sweep.on_error=halt": ["sweep.on_error=halt: must be one of continue, stop."],
    "seed=0,1 sweep.retry=1": ["sweep.retry=1: must be one of true, false."],
    "seed=0,1 sweep.fresh=maybe": ["sweep.fresh=maybe: must be one of true, false."],
    "seed=0,1 sweep.name=a/b": ["sweep.name=a/b: must be null, or a name of letters, digits and =,.+_-"],
    "seed=0,1 run=here": ["run=here: names one run; a sweep names its runs itself"],
    "seed=0,1 resume=there": ["resume=there: names one run"],
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_bad_point_is_refused_before_anything_is_written(line: str, data_dir: Path, tmp_path: Path) -> None:
    done = sweep(*line.split(), folder=tmp_path, data_dir=data_dir)
    assert done.code == 2, done.output
    assert all(row.startswith("error: ") for row in done.output.splitlines()), done.output
    for text in REFUSED[line]:
        assert text in done.output
    assert not (tmp_path / "outputs").exists()


def test_points_that_are_the_same_run_are_trained_once(data_dir: Path, tmp_path: Path) -> None:
    points = ("lr=0.1,1e-1,0.01", "trainer.max_epochs=1,1")
    done = sweep(*points, "data.limit=100", "callbacks=none", "logger=none", BASIC, folder=tmp_path, data_dir=data_dir)
    assert done.code == 0, done.output
    assert len(done.sweep.read().jobs) == 2
    assert "4 of 6 points are there twice and run once: " in done.output
    assert "lr=0.1 trainer.max_epochs=1; " in done.output


@pytest.fixture
def own_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ that the command line reads, to be edited."""
    copy = tmp_path / "conf"
    shutil.copytree(CONF, copy)
    monkeypatch.setattr(cli, "CONF", copy)
    return copy


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_later_edit_of_conf_does_not_touch_queued_jobs(data_dir: Path, tmp_path: Path, own_conf: Path) -> None:
    """conf/ is edited while the first job runs, and again before the same command goes on."""

    def patch() -> None:
        import lithydra.training.train

        original = lithydra.training.train.train

        def train(config: Any, *others: Any) -> float | None:
            if config.seed == 0:
                edit(own_conf / "model" / "mlp.yaml", "dropout: 0.0", "dropout: 0.5")
            elif config.seed == 1:
                raise KeyboardInterrupt
            return original(config, *others)

        lithydra.training.train.train = train  # pyright: ignore[reportAttributeAccessIssue]

    settings = ("seed=0,1,2", *QUICK)
    first = sweep(*settings, "sweep.n_jobs=1", folder=tmp_path / "work", data_dir=data_dir, patch=patch)
    assert first.code == 1, first.output
    assert first.states() == {"seed=0": "finished", "seed=1": "not started", "seed=2": "finished"}
    second = sweep(*settings, folder=tmp_path / "work", data_dir=data_dir)
    assert second.code == 0, second.output
    assert "conf/ gives other settings now than when this sweep was planned (model.dropout)" in second.output
    assert len(second.runs()) == 3
    for run in second.runs().values():
        assert yaml.safe_load(run.config.read_text())["model"]["dropout"] == 0


def test_points_that_join_jobs_of_another_conf_are_told_of(data_dir: Path, tmp_path: Path, own_conf: Path) -> None:
    """What differs is named; what follows an axis, as optimizer.lr, does not."""

    def planned_only() -> None:
        import lithydra.report.page
        from lithydra.sweeps.runner import SweepRunner

        SweepRunner.launch = lambda *_: None  # pyright: ignore[reportAttributeAccessIssue]
        lithydra.report.page.report_sweep = lambda _: None  # pyright: ignore[reportAttributeAccessIssue]

    def extended(*axes: str) -> str:
        done = sweep(*axes, BASIC, folder=tmp_path, data_dir=data_dir, patch=planned_only)
        assert done.code == 0, done.output
        return done.output

    told = "conf/ gives other settings now than when this sweep was planned"
    assert told not in extended("lr=0.1,0.2", "optimizer=sgd,rmsprop")
    assert told not in extended("lr=0.3,0.4", "optimizer=sgd,rmsprop")
    edit(own_conf / "model" / "mlp.yaml", "dropout: 0.0", "dropout: 0.5")
    (own_conf / "optimizer" / "rmsprop.yaml").unlink()
    last = extended("lr=0.5,0.6", "optimizer=sgd,adam")
    assert f"{told} (lr=0.4,optimizer=rmsprop: optimizer=rmsprop: choose one of " in last
    assert ", model.dropout). Its jobs keep theirs, new ones have these; sweep.fresh=true starts anew" in last


def test_a_sweep_can_be_extended_but_not_mixed(data_dir: Path, tmp_path: Path) -> None:
    where: dict[str, Any] = {"folder": tmp_path, "data_dir": data_dir}
    assert sweep("seed=0,1", *QUICK, BASIC, **where).code == 0
    more = sweep("seed=1,2", *QUICK, BASIC, **where)
    assert (more.code, list(more.runs())) == (0, ["seed=0", "seed=1", "seed=2"])
    assert more.sweep.read().axes == {"seed": ["0", "1", "2"]}
    mixed = sweep("seed=0,1", *QUICK, "lr=0.5", BASIC, **where)
    assert mixed.code == 2
    assert "this command has lr=0.5. Take another sweep.name, or sweep.fresh=true" in mixed.output
    fresh = sweep("seed=0,1", *QUICK, "lr=0.5", "sweep.fresh=true", BASIC, **where)
    assert (fresh.code, list(fresh.runs())) == (0, ["seed=0", "seed=1"])
    assert {run.read_config()["lr"] for run in fresh.runs().values()} == {0.5}


def test_a_directory_of_something_else_is_not_touched(data_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "outputs" / "sweeps" / "s" / "thesis.tex"
    other.parent.mkdir(parents=True)
    other.write_text("years of work")
    done = sweep("seed=0,1", *QUICK, "sweep.fresh=true", folder=tmp_path, data_dir=data_dir)
    assert done.code == 2 and "outputs/sweeps/s holds something else than a sweep" in done.output
    assert other.read_text() == "years of work"


def test_names_are_readable_safe_and_unique() -> None:
    assert readable_name({"optimizer": "sgd", "lr": "0.1"}) == "lr=0.1,optimizer=sgd"
    assert readable_name({"model.hidden": "[200,100]"}) == "model.hidden=200-100"
    assert readable_name({"data.path": "'a b/c:d*?'"}) == "data.path=ab-c-d-"
    assert readable_name({"x": "A"}, taken=["x=a"]) == "x=A_2"
    long = readable_name({"x": "1" * 300})
    assert len(long) <= 100 and long != readable_name({"x": "1" * 301})
    assert readable_name({}) == "run"


def test_the_key_is_of_what_decides_the_result() -> None:
    config = {"lr": 0.1, "model": {"hidden": [1]}, "run": None, "sweep": {"n_jobs": 1}, "paths": {"outputs": "a"}}
    assert config_key(config) == config_key({**config, "run": "x", "sweep": {}, "paths": {}})
    assert config_key(config) != config_key({**config, "model": {"hidden": [2]}})


def test_the_default_name_is_that_of_the_command_line() -> None:
    first = Request({"lr": ["0.1", "0.01"], "optimizer": ["sgd", "adam"]}, ["data.limit=100"], [], frozenset(("lr",)))
    assert first.default_name(None) == "data.limit=100,lr=0.1-0.01"
    assert first.default_name("digits/optimizer") == "digits-optimizer_data.limit=100,lr=0.1-0.01"


STUDIES = [str(path.relative_to(CONF / "study").with_suffix("")) for path in sorted((CONF / "study").rglob("*.yaml"))]


@pytest.mark.parametrize("study", STUDIES)
def test_every_point_of_a_shipped_study_passes_the_checks(study: str) -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        master = hydra.compose("train", overrides=[f"study={study}"], return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        if not str(master.hydra.sweeper._target_).endswith("GridSweeper"):
            pytest.skip("its points are only known as it goes")
        request = Request.parse(loader, master.hydra.sweeper.params, [f"study={study}"])
        points = [dict(zip(request.axes, values, strict=True)) for values in product(*request.axes.values())]
        prepared = prepare(loader, master, request, points)
    assert len({point.key for point in prepared}) == len(points) > 1
    assert master.study.title and master.study.expectation


def test_points_that_cannot_run_are_told_with_how_to_leave_them_out(data_dir: Path, tmp_path: Path) -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        given = [f"paths.data={data_dir}", f"paths.outputs={tmp_path}"]
        master = hydra.compose("train", overrides=given, return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        request = Request.parse(loader, {}, [*given, "experiment=glob([mnist_m*,transfer_fi*])"])
        points = [{"experiment": name} for name in request.axes["experiment"]]
        with pytest.raises(ConfigError) as caught:
            prepare(loader, master, request, points)
    last = str(caught.value).splitlines()[-1]
    assert last == (
        "1 of 2 points cannot run, those with experiment=transfer_finetune; experiment=mnist_mlp_bn leaves them out"
    )
