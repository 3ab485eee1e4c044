import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Load = Callable[[str], Any]


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports a module of benchmarks/speed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(f"speed.{name}")


def run_benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "benchmark.py"), *arguments], capture_output=True, text=True, timeout=300
    )


def epochs(contender: str, *seconds: float, measurement: str = "mnist_mlp") -> dict[str, Any]:
    return {
        "measurement": measurement,
        "contender": contender,
        "point": None,
        "epoch_seconds": list(seconds),
        "num_train": 100,
        "train_loss": 0.5,
    }


def test_ratio_is_of_medians_and_leaves_the_first_epoch_out(benchmarks: Load) -> None:
    runs = [
        epochs("bare", 9.0, 2.0, 2.0),
        epochs("bare", 9.0, 4.0, 4.0),
        epochs("bare", 9.0, 90.0, 90.0),
        *[epochs("lithydra", 99.0, 5.0, 7.0)] * 3,
    ]
    found = benchmarks("medians").summarize(runs)["workloads"]["mnist_mlp"]
    assert found["seconds"] == {"bare": 4.0, "lithydra": 6.0}
    assert found["ratios"] == {"lithydra/bare": 1.5}
    assert found["images_per_second"]["bare"] == 25.0


def test_fastest_epoch_of_all_processes_is_compared_too(benchmarks: Load) -> None:
    runs = [
        epochs("bare", 1.0, 4.0, 2.0),
        epochs("bare", 1.0, 9.0),
        epochs("lithydra", 1.0, 3.0),
        epochs("bare", 1.0, 8),
    ]
    found = benchmarks("medians").summarize(runs)["workloads"]["mnist_mlp"]
    assert found["fastest"] == {"bare": 2.0, "lithydra": 3.0}
    assert found["fastest_ratio"] == 1.5


def test_busy_is_by_neighbors_and_the_last_is_over_none(benchmarks: Load) -> None:
    runs = [
        {
            **epochs("lithydra", 9.0, own, own, measurement="busy_default"),
            **{"point": count, "seconds": 10 * own, "trainer": {"threads": 1}},
        }
        for count, own in ((0, 1.0), (1, 1.5), (2, 3.0), (2, 4.0), (2, 5.0))
    ]
    summary = benchmarks("medians").summarize(runs)
    assert summary["busy"]["default"]["2"] == {"seconds": 40.0, "epoch_seconds": 4.0, "threads": 1}
    (table,) = benchmarks("tables").tables(summary)
    assert table.rows[0] == ["default, whole command", "1", "10", "15", "40", "4.00"]


def test_waits_are_by_kind_and_by_neighbors(benchmarks: Load) -> None:
    seconds = {"train.py's": 10.0, "OpenMP's own": 8.0, "passive": 12.0}
    runs = [
        {
            **epochs("lithydra", 9.0, measurement="waits_default"),
            **{"point": f"{wait}, {count}", "seconds": alone * (1 + count), "trainer": {"threads": 2}},
        }
        for wait, alone in seconds.items()
        for count in (0, 1, 2)
    ]
    (table,) = benchmarks("tables").tables(benchmarks("medians").summarize(runs))
    assert table.rows[0] == ["default, train.py's", "10", "20", "30", "1.250"]


def test_what_auto_timed_and_took_is_by_net(benchmarks: Load) -> None:
    runs = [
        {
            **epochs("lithydra", 9.0, measurement="auto"),
            **{"point": "mnist_mlp", "trainer": {"precision": taken, "step_seconds": {"32-true": 0.001, "bf16": bf16}}},
        }
        for taken, bf16 in (("32-true", 0.004), ("bf16", 0.0005), ("32-true", 0.002))
    ]
    (table,) = benchmarks("tables").tables(benchmarks("medians").summarize(runs))
    assert table.header == ["net", "32-true", "bf16", "taken"]
    assert table.rows == [["mnist_mlp", "1", "2", "32-true 2 times, bf16 1 times"]]


def test_neighbors_end_with_the_job(benchmarks: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command: started.append(real(command)) or started[-1])
    with benchmarks("processes").neighbors(2):
        assert [process.poll() for process in started] == [None, None]
    assert all(process.poll() is not None for process in started)


def test_cost_of_looking_inside_is_by_epoch_and_once_a_run(benchmarks: Load) -> None:
    runs = [
        {**epochs("lithydra", 3.0, 2.0, 2.0, measurement="looking"), "point": "with", "seconds": 12.0},
        {**epochs("lithydra", 3.0, 1.0, 1.0, measurement="looking"), "point": "without", "seconds": 9.0},
    ]
    found = benchmarks("medians").summarize(runs)["looking"]
    assert found["epoch_ratio"] == 2.0
    assert found["once_seconds"] == 1.0
    assert found["ten_epochs_seconds"] == 10 * 2.0 * 50_000 / 100


def test_memory_counts_bytes_beyond_the_imports(benchmarks: Load) -> None:
    runs = [
        {"measurement": "memory", "contender": "bare", "peak_bytes": 300, "import_bytes": 100},
        {"measurement": "memory", "contender": "lithydra", "peak_bytes": 500, "import_bytes": 280},
    ]
    assert benchmarks("medians").summarize(runs)["memory"]["ratio"] == 1.1


def test_start_up_leaves_reading_the_data_out(benchmarks: Load) -> None:
    runs = [
        {"measurement": "startup", "contender": "imports", "seconds": 4.0},
        {"measurement": "startup", "contender": "bare", "seconds": 9.0, "load_seconds": 1.0},
        {"measurement": "startup", "contender": "lithydra", "seconds": 9.0, "first_step_seconds": 5.0},
    ]
    assert benchmarks("medians").summarize(runs)["startup"]["ratio"] == 1.0


def test_scaling_points_multiply_one_thing_at_a_time(benchmarks: Load) -> None:
    workloads = benchmarks("workloads")
    points = workloads.scaling_points(workloads.WORKLOADS["mnist_mlp"])
    assert [point.limit for point in points["data"].values()] == [7500, 15000, 30000, 60000]
    assert [len(point.settings["hidden"]) for point in points["depth"].values()] == [1, 2, 4, 8]
    assert {point.batch_size for point in points["data"].values()} == {100}


def test_every_contender_gets_every_workload(benchmarks: Load) -> None:
    workloads = benchmarks("workloads")
    jobs = workloads.plan(list(workloads.WORKLOADS), list(workloads.CONTENDERS), epochs=3, accelerator="cpu")
    assert len({(job.measurement, job.contender) for job in jobs}) == 16


def test_docs_page_holds_the_machine_and_what_was_measured(
    benchmarks: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        {**epochs("bare", 9.0, 2.0), "overrides": ["data=mnist"]},
        {**epochs("lithydra", 9.0, 3.0), "overrides": ["data=mnist"]},
    ]
    record = {
        "machine": {"cpu": "Abacus 3", "cores": 2, "torch_threads": 2, "gpus": [], "system": "Linux"},
        "versions": {"torch": "2.15.0"},
        "commit": "abc",
        "uncommitted": False,
        "device": "cpu",
        "runs": runs,
        "summary": benchmarks("medians").summarize(runs),
    }
    benchmark = importlib.import_module("benchmark")
    monkeypatch.setattr(benchmark, "ROOT", tmp_path)
    docs = tmp_path / "docs"
    docs.mkdir()
    benchmark.draw_and_write(record, tmp_path, True, Console(quiet=True))
    page = (docs / "benchmarks.md").read_text()
    assert "![Epoch times](benchmarks.png)" in page and (docs / "benchmarks.png").is_file()
    assert "Abacus 3, 2 cores, 2 threads" in page
    assert "- **mnist_mlp**: `data=mnist`" in page
    assert "| mnist_mlp | 1.50 |  |  | 1.50 | 33 |" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "mnist_mpl"], "Did you mean mnist_mlp?"),
        (["--contenders", "bare,dataloadr"], "Did you mean dataloader?"),
        (["--epochs", "1"], "must be a whole number of at least 2"),
        (["--data", "nowhere", "--only", "mnist_mlp"], "mnist.npz is not there"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run_benchmark(*arguments, "--output", str(tmp_path / "out"))
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_contenders_do_the_same_work(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(1200) % 10
    images = generator.integers(0, 100, (1200, 28, 28), dtype=np.uint8)
    images[np.arange(1200), labels] += 100
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=labels, x_test=images[:200], y_test=labels[:200])
    out = tmp_path / "out"
    arguments = ["--only", "mnist_mlp", "--repetitions", "1", "--epochs", "2"]
    done = run_benchmark(*arguments, "--data", str(tmp_path), "--output", str(out))
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "benchmark.json").read_text())
    assert record["machine"]["torch_threads"] > 0
    assert record["versions"].keys() >= {"torch", "lightning", "python"}
    assert [len(run["epoch_seconds"]) for run in record["runs"]] == [2, 2, 2, 2]
    assert {run["num_train"] for run in record["runs"]} == {1080}
    found = record["summary"]["workloads"]["mnist_mlp"]
    assert found["ratios"].keys() == {"lithydra/bare", "lithydra/dataloader", "lithydra/lightning"}
    losses = list(found["train_loss"].values())
    assert max(losses) < 1.2 * min(losses)
    assert (out / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in (out / "benchmark.json").read_text()
