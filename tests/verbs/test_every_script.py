"""Every script on runs of three nets on three data sets, as a sweep leaves them; without network.

The runs are a sweep's, so that their names hold a `=`.
"""

import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from test_serve import serving

from conftest import ROOT, write_npz
from killing import in_child
from lithydra import cli
from lithydra.run.directory import RunDir
from sweeping import Done, sweep

pytestmark = [
    pytest.mark.slow,
    # Of torch's exporters, which use parts of torch that are on their way out.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

MODELS = ("mlp", "cnn", "alexnet")
SHAPES = {"digits": (8, 8), "fashion_mnist": (28, 28), "cifar10": (32, 32, 3)}
RUNS = [(data, model) for data in SHAPES for model in MODELS]
NUM_TRAIN, NUM_TEST = 600, 200

Script = Callable[..., str]


@pytest.fixture(scope="module")
def some_data(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The digits, and the first images of the other sets where the checkout has them; else images of their form."""
    folder = tmp_path_factory.mktemp("some_data")
    shutil.copy(data_dir / "digits.npz", folder)
    for name in ("fashion_mnist", "cifar10"):
        path, whole = folder / f"{name}.npz", ROOT / "data" / f"{name}.npz"
        if whole.is_file():
            with np.load(whole) as file:
                parts = {key: file[key][: NUM_TRAIN if "train" in key else NUM_TEST] for key in file.files}
            np.savez(path, allow_pickle=False, **parts)
        else:
            write_npz(path, num_classes=10, shape=SHAPES[name], num_train=NUM_TRAIN, num_test=NUM_TEST)
    return folder


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory, some_data: Path) -> dict[str, Done]:
    """A sweep over the models for each data set."""
    small = ("data.limit=600", "trainer.max_epochs=1", f"model={','.join(MODELS)}")
    done = {
        name: sweep(f"data={name}", *small, folder=tmp_path_factory.mktemp(name), data_dir=some_data, name=name)
        for name in SHAPES
    }
    for finished in done.values():
        assert finished.code == 0, finished.output
    return done


@pytest.fixture(params=RUNS, ids="-".join)
def run(request: pytest.FixtureRequest, sweeps: dict[str, Done]) -> RunDir:
    data, model = request.param
    return sweeps[data].runs()[f"model={model}"]


@pytest.fixture
def script(tmp_path: Path, some_data: Path) -> Script:
    """`script("predict", "run=DIR", …)` is the command, forked, in a folder of its own; it gives what it printed."""
    folder = tmp_path / "work"
    folder.mkdir()

    def called(name: str, *arguments: str) -> str:
        def task() -> None:
            os.chdir(folder)
            os.environ.update(LITHYDRA_DATA=str(some_data), COLUMNS="200")
            GlobalHydra.instance().clear()
            sys.argv = [f"{name}.py", *arguments]
            cli.main(name)

        log = tmp_path / f"{name}.log"
        log.unlink(missing_ok=True)
        code = in_child(task, log)
        assert code == 0, log.read_text()
        return log.read_text()

    return called


def final(run: RunDir) -> dict[str, float]:
    return run.read_status()["metrics"]


def assert_picture(path: Path) -> None:
    with Image.open(path) as image:
        assert np.asarray(image).std() > 5, f"{path} is blank"


def test_evaluate_gives_the_runs_numbers(run: RunDir, script: Script) -> None:
    for split in ("test", "val"):
        said = script("evaluate", f"run={run.path}", f"split={split}")
        assert f"{final(run)[f'{split}/loss']:.4f}" in said and f"{final(run)[f'{split}/acc']:.4f}" in said


def test_predict_takes_a_file_a_folder_a_glob_and_an_npz(run: RunDir, script: Script, tmp_path: Path) -> None:
    config = run.read_config()["data"]
    with np.load(Path(config["dir"]) / f"{config['name']}.npz") as file:
        images = file["x_test"][:12]
    photos, npz = tmp_path / "photos, 1=2", tmp_path / "some (1).npz"
    photos.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(photos / f"{number:02}.png")
    np.savez(npz, x=images)
    inputs = {"file": photos / "03.png", "folder": photos, "glob": f"{photos}/0[0-4]*.png", "npz": npz}
    found = {name: predictions(script, run, source, tmp_path / f"{name}.csv") for name, source in inputs.items()}
    assert len(found["npz"]) == 12 and found["folder"] == found["npz"]
    assert found["file"] == found["npz"][3:4] and found["glob"] == found["npz"][:5]
    assert_picture(tmp_path / "folder.png")
    output = tmp_path / "found.json"
    script("predict", f"run={run.path}", f"input={npz}", "format=json", f"output={output}", "top_k=1")
    best = [row["predictions"][0]["class"] for row in json.loads(output.read_text())]
    assert best == [row["class_1"] for row in found["npz"]]


def predictions(script: Script, run: RunDir, source: Any, output: Path) -> list[dict[str, str]]:
    """The rows that predict writes, without the path."""
    script("predict", f"run={run.path}", f"input={source}", f"output={output}")
    with output.open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "path"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("form", ["onnx", "torch_export"])
def test_export_gives_the_runs_accuracy(run: RunDir, script: Script, form: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    said = script("export", f"run={run.path}", f"format={form}", f"output={tmp_path / 'model'}")
    accuracies = re.findall(r"│ +(0\.\d{4}|1\.0000) │", said)
    assert accuracies == [f"{final(run)['test/acc']:.4f}"] * 2
    difference = re.search(r"on \d+ test images: (\S+)", said)
    assert difference and float(difference[1]) <= 1e-4 and (tmp_path / "model").stat().st_size > 1000


def test_explain_draws(run: RunDir, script: Script, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    some = "only=mistakes" if final(run)["test/acc"] < 1 else "only=right"
    for choice in (some, "images=[0,7]", "target=label"):
        script("explain", f"run={run.path}", choice, "num_images=3", f"output={tmp_path / 'picture.png'}")
        assert_picture(tmp_path / "picture.png")


def test_a_run_made_again_is_equal_and_has_no_differences(run: RunDir, script: Script, tmp_path: Path) -> None:
    again = tmp_path / "again=1"
    said = script("reproduce_run", f"run={run.path}", f"output={again}")
    assert "Bit for bit equal: the metrics of 1 epochs" in said
    said = script("compare", str(run.path), str(again), f"output={tmp_path / 'curves.png'}")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]
    accuracy = f"{final(run)['test/acc']:.4f}"
    assert "No different settings" in said and [row.count(accuracy) > 0 for row in rows] == [True, True]
    assert_picture(tmp_path / "curves.png")


def test_a_run_goes_on(run: RunDir, script: Script, tmp_path: Path) -> None:
    copy = RunDir(Path(shutil.copytree(run.path, tmp_path / run.path.name)))
    script("train", f"resume={copy.path}", "trainer.max_epochs=2")
    assert [row["epoch"] for row in copy.read_metrics()] == ["1", "2"]


@pytest.mark.parametrize(("data", "model"), RUNS)
def test_lr_find_suggests(script: Script, tmp_path: Path, data: str, model: str) -> None:
    quick = ("data.batch_size=32", "lr_find.num_steps=40", f"paths.outputs={tmp_path}")
    said = script("lr_find", f"data={data}", f"model={model}", *quick)
    assert "python train.py" in said and f"data={data} model={model}" in said
    (picture,) = (tmp_path / "lr_find").iterdir()
    assert_picture(picture)


@pytest.mark.parametrize("data", SHAPES)
def test_inspect_data_counts_and_draws(script: Script, tmp_path: Path, data: str) -> None:
    settings = (f"data={data}", "normalization=z_score", "augmentation=affine", f"paths.outputs={tmp_path}")
    said = script("inspect_data", *settings)
    shape = SHAPES[data] if len(SHAPES[data]) == 3 else (*SHAPES[data], 1)
    assert f"{data}: images {shape[2]} x {shape[0]} x {shape[1]} uint8, 10 classes" in said
    assert "exact duplicates" in said
    assert_picture(tmp_path / "inspect" / f"{data}.png")


@pytest.mark.parametrize("data", SHAPES)
def test_report_names_every_run(sweeps: dict[str, Done], script: Script, data: str) -> None:
    directory = sweeps[data].sweep.path
    (directory / "report.html").unlink()
    said = script("report", f"sweep={directory}")
    page = (directory / "report.html").read_text()
    for model in MODELS:
        score = f"{final(sweeps[data].runs()[f'model={model}'])['val/acc']:.4f}"
        assert model in said and score in said and score in page


@pytest.mark.parametrize(("data", "model"), [("digits", "mlp"), ("fashion_mnist", "cnn"), ("cifar10", "alexnet")])
def test_serve_answers(sweeps: dict[str, Done], some_data: Path, tmp_path: Path, data: str, model: str) -> None:
    client = pytest.importorskip("gradio_client")  # comes with gradio
    run = sweeps[data].runs()[f"model={model}"]
    with np.load(some_data / f"{data}.npz") as file:
        Image.fromarray(file["x_test"][0]).save(tmp_path / "image.png")
    with serving(run) as address:
        page = client.Client(address, verbose=False)
        _, answer = page.predict(client.handle_file(str(tmp_path / "image.png")), False, api_name="/predict")
    classes = run_classes(run)
    assert answer["label"] in classes and {c["label"] for c in answer["confidences"]} <= set(classes)
    assert answer["confidences"][0]["confidence"] > 0.1


def run_classes(run: RunDir) -> list[str]:
    import lithydra

    return lithydra.load(run.path).record["data"]["class_names"]
