"""benchmarks/reproduce.py: runs what is missing, goes on where it stopped, and takes each number from a run."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from rich.console import Console

from by_hand import write_sweep
from conftest import CONF, ROOT
from lithydra.errors import ConfigError
from lithydra.files import write_json
from lithydra.run.config import frozen
from lithydra.run.directory import RunDir
from reproduction import page, running
from reproduction.plan import Recipe, Study, items, refuse_others


def recipe(folder: Path, name: str, **entry: Any) -> Recipe:
    return Recipe(name, folder, False, {"reports": "0.9", **entry})


def finish(run: RunDir, accuracy: float) -> None:
    run.path.mkdir(parents=True)
    run.config.touch()
    run.update_status(state="finished", metrics={"train/acc": 1.0, "test/acc": accuracy})
    run.add_metrics({"epoch": 1, "step": 10, "train/acc": 0.99, "seconds": 12.0})
    write_json(
        run.provenance,
        {
            "git": {"commit": "0123456789"},
            "packages": {"torch": "2"},
            "hardware": {"cpu": "Abacus", "torch_threads": 1, "cores": 2, "gpus": []},
        },
    )


def test_every_recipe_and_study_is_in_the_plan(tmp_path: Path) -> None:
    found = items(tmp_path, quick=False)
    experiments = {item.experiment for item in found if isinstance(item, Recipe)}
    assert experiments <= {path.stem for path in CONF.glob("experiment/*.yaml")} and len(experiments) >= 12
    assert sum(isinstance(item, Study) for item in found) >= 14


def test_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--only cifar10_cn: no such recipe or study\. Did you mean cifar10_cnn\?"):
        items(tmp_path, quick=False, only=["cifar10_cn"])


def test_a_run_of_another_recipe_than_todays_is_refused(tmp_path: Path) -> None:
    today = recipe(tmp_path, "mnist_99_fast")
    run = today.run(1)
    finish(run, 0.9)
    with initialize_config_dir(str(CONF), version_base=None):
        config = frozen(compose("train", overrides=today.settings(1)))
    config["trainer"]["precision"] = "bf16-mixed"  # what precision=auto chose
    run.write_config(config)
    refuse_others(items(tmp_path, quick=False))
    config["trainer"]["max_epochs"] = 8
    run.write_config(config)
    with pytest.raises(ConfigError, match=r"seed_1: trainer\.max_epochs was 8 and is 1 in conf/; move that run away"):
        refuse_others(items(tmp_path, quick=False))


def test_only_what_has_not_ended_is_run_and_what_was_begun_goes_on(tmp_path: Path) -> None:
    one = recipe(tmp_path, "some", overrides=["lr=0.1", "init.from=x"], **{"from": {"init.from": "other"}})
    finish(one.run(0), 0.9)
    one.run(1).path.mkdir(parents=True)
    one.run(1).config.touch()
    (second, third) = running.missing([one], tmp_path)
    assert second[:2] == ("some seed 1", [f"resume={one.run(1).path}"])
    source = f"init.from={tmp_path}/recipes/other/seed_0"
    assert third[1] == ["experiment=some", "lr=0.1", "seed=2", source, f"run={one.run(2).path}"]
    assert running.missing([recipe(tmp_path, "never", not_run="too large")], tmp_path) == []


def test_what_needs_a_gpu_waits_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = recipe(tmp_path, "large", overrides=["accelerator=gpu"], seeds=[0])
    for available in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert len(running.missing([on_gpu], tmp_path)) == available


def test_an_interrupt_of_a_run_ends_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = iter([1, 130, 0])
    monkeypatch.setattr(running, "train", lambda arguments, log: log.touch() or next(codes))
    tasks = [(name, [], tmp_path / name) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        running.run(tasks, Console(file=io.StringIO()))
    assert next(codes) == 0  # the third did not start


def test_page_has_the_numbers_of_the_runs(tmp_path: Path) -> None:
    good = recipe(tmp_path, "good", at_least=0.9, seeds=[0, 1])
    bad, absent = recipe(tmp_path, "bad", at_least=0.9, seeds=[0]), recipe(tmp_path, "absent", note="nobody ran it")
    better = recipe(tmp_path, "better", above="bad", seeds=[0])
    other = recipe(tmp_path, "other", metric="train/acc", seeds=[0])
    for one, scores in ((good, (0.91, 0.93)), (bad, (0.8,)), (better, (0.85,)), (other, (0.7,))):
        for seed, score in enumerate(scores):
            finish(one.run(seed), score)
    on_gpu = recipe(tmp_path, "large", overrides=["accelerator=gpu"])
    page.write(tmp_path / "results.md", [good, bad, better, other, absent, on_gpu], quick=False, command="python it")
    lines = {
        line.split("`")[1].split("=")[1]: line
        for line in (tmp_path / "results.md").read_text().splitlines()
        if "experiment=" in line
    }
    assert "| 0.9200 ± 0.0141 (seeds 0, 1) | train acc 1.0000 ± 0.0000 | 12.0 s |" in lines["good"]
    assert "| Abacus, 1 of 2 cores | reached: at least 0.9 |" in lines["good"]
    assert "0.8000 (seed 0)" in lines["bad"] and "NOT reached" in lines["bad"]
    assert "| above bad (0.8000) |" in lines["better"]
    assert "| train/acc 1.0000 (seed 0) | test acc 0.7000 |" in lines["other"]
    assert "not measured" in lines["absent"]
    text = (tmp_path / "results.md").read_text()
    assert "5 runs, of the commits 0123456; torch 2." in text and "- `absent`: nobody ran it" in text
    assert "experiment=large accelerator=gpu` | 0.9 | not measured" in text[text.index("## On a GPU") :]
    assert (tmp_path / "images/results/recipes.png").stat().st_size > 1000


def test_what_ran_elsewhere_stays_on_the_page(tmp_path: Path) -> None:
    target, there = tmp_path / "results.md", tmp_path / "there"
    one, two = recipe(there, "one", seeds=[0]), recipe(there, "two", seeds=[0])
    finish(one.run(0), 0.9)
    study = Study("fashion_mnist/annealing", there, quick=False)
    write_sweep(study.sweep.path, {"lr": ["0.1", "0.2"], "seed": ["0", "1"]}, lambda p: float(p["lr"]))
    page.write(target, [one, two, study], quick=False, command="it", note="Of all studies.")
    before = target.read_text()
    picture = (tmp_path / "images/results/recipes.png").read_bytes()
    assert "Of all studies." in before

    def again(folder: Path) -> str:
        moved = [recipe(folder, "one", seeds=[0]), recipe(folder, "two", seeds=[0])]
        page.write(
            target, [*moved, Study(study.name, folder, quick=False)], quick=False, command="it", note="Of all studies."
        )
        return target.read_text()

    assert again(tmp_path / "empty") == before
    begun = Study(study.name, tmp_path / "begun", quick=False).sweep.path
    write_sweep(begun, {"lr": ["0.1"]}, lambda _: 0.5, states={"lr=0.1": "interrupted"})
    assert again(tmp_path / "begun") == before
    here = recipe(tmp_path / "here", "two", seeds=[0]).run(0)
    finish(here, 0.7)
    now = again(tmp_path / "here").splitlines()
    assert set(before.splitlines()) - set(now) == {line for line in before.splitlines() if "experiment=two" in line}
    assert any("experiment=two" in line and "0.7000 (seed 0)" in line for line in now)
    assert (tmp_path / "images/results/recipes.png").read_bytes() == picture


@pytest.mark.parametrize(("seeds", "finished"), [("0,1,2,3,4", True), ("0,1,2", False)])
def test_a_study_that_has_more_seeds_by_now_goes_on(tmp_path: Path, seeds: str, finished: bool) -> None:
    study = Study("fashion_mnist/annealing", tmp_path, quick=False)
    write_sweep(study.sweep.path, {"variant": ["plain", "halve_on_plateau"], "seed": seeds.split(",")}, lambda _: 0.9)
    (study.sweep.path / "report.md").touch()
    assert study.finished is finished


def test_records_have_time_and_work_beside_what_is_published(tmp_path: Path) -> None:
    one = recipe(tmp_path, "fast", seeds=[0], published="0.95 in a second")
    run = one.run(0)
    finish(run, 0.94)
    run.config.write_text("{data: {}, model: {}, optimizer: {}, trainer: {accumulate_grad_batches: 2}}")
    run.update_status(step=1000)
    run.metrics.unlink()
    run.add_metrics({"epoch": 1, "step": 1000, "train/acc": 0.99, "training_seconds": 75.0, "seconds": 80.0})
    needed = {"choices": {}, "overrides": [], "trainer": {"step_flops": 10**12}}
    write_json(run.provenance, {**json.loads(run.provenance.read_text()), **needed})
    page.write(tmp_path / "results.md", [one], quick=False, command="it")
    text = (tmp_path / "results.md").read_text()
    row = "| 0.9400 (seed 0) | 1 min 15 s | 2 | Abacus, 1 of 2 cores | 0.95 in a second |"
    assert row in text[text.index("## Records") :]


def test_page_has_the_studies_with_the_pictures_that_their_rules_are_about(tmp_path: Path) -> None:
    study = Study("fashion_mnist/annealing", tmp_path, quick=False, note="As it should be.")
    absent = Study("fashion_mnist/depth", tmp_path, quick=False)
    rules = {"verdict": [{"metric": "gap", "of": {"lr": 0.2}, "below": 0.2}, {"metric": "val/acc", "above": 0.5}]}
    write_sweep(study.sweep.path, {"lr": ["0.1", "0.2"], "seed": ["0", "1"]}, lambda p: float(p["lr"]), study=rules)
    page.write(tmp_path / "results.md", [study, absent], quick=False, command="python it")
    text = (tmp_path / "results.md").read_text()
    assert re.search(r"study=fashion_mnist/annealing` \|.*\| 4 of 4 \| 3.0 s \|.*\| unclear \|", text)
    assert re.search(r"study=fashion_mnist/depth` .* not measured \|", text)
    assert text.count("- **") == 2 and "As it should be." in text
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert [Path(picture).name for picture in pictures] == [
        "fashion_mnist-annealing-gap.png",
        "fashion_mnist-annealing-curves_lr.png",
    ]
    assert all((tmp_path / picture).stat().st_size > 1000 for picture in pictures)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data in the place and form of the real sets, large enough for a tenth of them to fill a batch."""
    folder = tmp_path_factory.mktemp("stand_ins")
    generator = np.random.default_rng(0)
    for name, shape in (("mnist", (28, 28)), ("fashion_mnist", (28, 28)), ("cifar10", (32, 32, 3))):
        patterns = generator.integers(60, 196, (10, *shape))
        labels = np.arange(14_000) % 10
        noise = generator.integers(-60, 60, (14_000, *shape), dtype=np.int16)
        images = (patterns[labels] + noise).clip(0, 255).astype(np.uint8)
        parts = {"x_train": images[:13_000], "y_train": labels[:13_000], "x_test": images[13_000:]}
        np.savez(folder / f"{name}.npz", **parts, y_test=labels[13_000:])
    return folder


def is_run_here(item: Recipe | Study) -> bool:
    return isinstance(item, Study) or not (item.needs_gpu or "not_run" in item.entry)


NAMES = [item.name for item in items(Path(), quick=True) if is_run_here(item)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_quick_pass_goes_to_the_end(name: str, stand_ins: Path, tmp_path: Path) -> None:
    item = next(item for item in items(tmp_path, quick=True) if item.name == name)
    first = [*item.entry.get("from", {}).values()] if isinstance(item, Recipe) else []
    command = [sys.executable, ROOT / "benchmarks/reproduce.py", "--quick", "--folder", tmp_path, "--only"]
    done = subprocess.run(
        [*command, *first, name],
        env={**os.environ, "LITHYDRA_DATA": str(stand_ins), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if isinstance(item, Recipe):
        assert item.finished(item.seeds[0])
    else:
        assert item.finished
        states = {item.sweep.state(job) for job in item.sweep.read().jobs}
        assert "finished" in states
        rules = yaml.safe_load((CONF / "study" / f"{name}.yaml").read_text())["study"]["verdict"]
        assert (tmp_path / "results.md").read_text().count("- **") >= len(rules)
