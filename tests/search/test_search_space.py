"""hydra/sweeper=optuna: ranges, settings, and suggestions that go on where they stopped."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from omegaconf import OmegaConf

from conftest import CONF
from lithydra.errors import ConfigError
from lithydra.search.optuna_side import STUDY, open_storage, pruner, sampler, storage_address
from lithydra.search.settings import Settings
from lithydra.search.space import Options, Range, corners, grid, parse

DEFAULTS: dict[str, Any] = {
    k: v for k, v in yaml.safe_load((CONF / "hydra/sweeper/optuna.yaml").read_text()).items() if k != "_target_"
}
CONFIG = OmegaConf.create({"monitor": {"metric": "val/acc"}, "sweep": {"retry": False}})


def settings(**changes: Any) -> Settings:
    return Settings.checked({**DEFAULTS, **changes}, CONFIG)


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("interval(0,0.5)", Range(0.0, 0.5)),
        ("tag(log,interval(1e-4,1e-1))", Range(1e-4, 1e-1, log=True)),
        ("int(interval(1,8))", Range(1, 8, step=1, whole=True)),
        ("tag(log,int(interval(16,512)))", Range(16, 512, step=1, log=True, whole=True)),
        ("range(0,6)", Range(0, 5, step=1, whole=True)),  # Hydra's range leaves its end out
        ("range(32,129,32)", Range(32, 128, step=32, whole=True)),
        ("range(0,0.5,0.25)", Range(0.0, 0.25, step=0.25)),
        ("choice(sgd,adam)", Options(("sgd", "adam"))),
        ("sgd,adam", Options(("sgd", "adam"))),
        ("[64],[64,32]", Options(("[64]", "[64,32]"))),
    ],
)
def test_ranges_are_hydras(text: str, parameter: Range | Options) -> None:
    space, common = parse([f"x={text}", "data=digits"], {})
    assert space == {"x": parameter} and common == ["data=digits"]
    parameter.distribution()  # Optuna takes it


def test_the_command_line_wins_over_a_files_ranges() -> None:
    space, common = parse(["lr=0.1", "model.dropout=interval(0,0.2)"], {"lr": "interval(0,1)", "model.dropout": "0,1"})
    assert space == {"model.dropout": Range(0.0, 0.2)} and common == ["lr=0.1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lr=0.1"], "nothing to search; give a range"),
        (["lr=tag(log,interval(0,1))"], "lr: a log range must begin above 0"),
        (["lr=interval(1,0)"], "lr: the range from 1.* to 0.* is empty"),
        (["lr=tag(log,range(1,10,2))"], "lr: a log range has no step"),
        (["seed=range(0,5)"], "seed: a search would choose the luckiest"),
    ],
)
def test_a_range_without_sense_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(arguments, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "tpee"}, r"hydra\.sweeper\.sampler=tpee: one of .* Did you mean tpe\?"),
        ({"pruner": "halving"}, r"hydra\.sweeper\.pruner=halving: one of none, median, hyperband"),
        ({"storage": "redis"}, r"hydra\.sweeper\.storage=redis"),
        ({"n_trials": 0}, r"hydra\.sweeper\.n_trials=0: must be a whole number at least 1"),
        ({"n_trials": None}, r"hydra\.sweeper\.n_trials=None"),
        ({"objectives": ["test/acc"]}, "the test set chooses nothing; take val/acc"),
        ({"objectives": ["val/macro_f"]}, r"Did you mean val/macro_f1\?"),
        ({"objectives": ["val/loss"]}, "the first must be monitor.metric=val/acc"),
        ({"objectives": ["val/acc", "seconds"], "pruner": "median"}, "with several objectives nothing can be pruned"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


def test_a_retry_is_of_grids_alone() -> None:
    config = OmegaConf.create({"monitor": {"metric": "val/acc"}, "sweep": {"retry": True}})
    with pytest.raises(ConfigError, match=r"sweep\.retry=true: not of a search.* a larger hydra\.sweeper\.n_trials"):
        Settings.checked(DEFAULTS, config)


def test_options_that_optuna_does_not_know_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.sampler=tpe: .*n_startup"):
        sampler(settings(sampler_options={"n_startup": 5}), 0)
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.pruner_options: .*warmup"):
        pruner("median", 10, {"warmup": 5})


def test_a_grid_has_every_point_and_an_interval_none() -> None:
    space, _ = parse(["a=range(0,3)", "b=x,y"], {})
    assert grid(space) == [{"a": a, "b": b} for a in range(3) for b in "xy"]
    assert corners(space) == [{"a": 0, "b": "x"}, {"a": 2, "b": "x"}, {"a": 0, "b": "y"}]
    with pytest.raises(ConfigError, match=r"lr: .*sampler=grid needs single values"):
        grid(parse(["lr=interval(0,1)"], {})[0])


@pytest.mark.parametrize(
    ("kind", "storage"),
    [("tpe", "sqlite"), ("tpe", "journal"), ("random", "journal"), ("nsgaii", "journal"), ("cmaes", "journal")],
)
def test_a_continued_search_suggests_what_an_uninterrupted_one_would(kind: str, storage: str, tmp_path: Path) -> None:
    """With one sampler and a fixed seed, the second half would repeat the first: hydra-optuna-sweeper's way."""
    space, _ = parse(["x=interval(0,1)", "y=tag(log,interval(1e-4,1))"], {})
    options = settings(sampler=kind, storage=storage, sampler_options={"n_startup_trials": 3} if kind == "tpe" else {})

    def search(folder: Path, *parts: int) -> list[dict[str, Any]]:
        folder.mkdir()
        study = optuna.create_study()
        for part in parts:  # each with a new connection, as a new process has
            study = optuna.create_study(
                storage=open_storage(storage_address(storage, str(folder))), study_name=STUDY, load_if_exists=True
            )
            for _ in range(part):
                study.sampler = sampler(options, len(study.trials))
                trial = study.ask({key: parameter.distribution() for key, parameter in space.items()})
                study.tell(trial, (trial.params["x"] - 0.3) ** 2 + trial.params["y"])
        return [trial.params for trial in study.trials]

    whole, parts = search(tmp_path / "whole", 6), search(tmp_path / "parts", 2, 4)
    assert whole == parts
    assert len({params["x"] for params in whole}) == 6
