"""Exported models give the run's numbers, with nothing of lithydra needed to use them."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

import lithydra
from conftest import CONF, SMALL, RunTrain
from lithydra.checks import extras
from lithydra.checks.extras import require_extra
from lithydra.errors import ConfigError, LithydraError
from lithydra.run.directory import RunDir
from lithydra.verbs import export as export_module
from lithydra.verbs.export import export

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# Of torch's exporters, which use parts of torch that are on their way out.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def settings(run: RunDir, data_dir: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("export", overrides=[f"run={run.path}", f"paths.data={data_dir}", *overrides])


def digits(data_dir: Path, count: int) -> np.ndarray:
    return np.load(data_dir / "digits.npz")["x_test"][:count, None]


def expected(run: RunDir, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    module = lithydra.load(run.path)
    with torch.no_grad():
        logits = module(torch.from_numpy(images))
        return logits.numpy(), module.probabilities(logits).numpy()


def test_each_format_gives_the_runs_numbers(
    run_train: RunTrain, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_train(*SMALL, "model=cnn", "model.channels=[8]", "normalization=z_score", "model.batch_norm=true")
    session = onnxruntime.InferenceSession(export(settings(run, data_dir))["output"])
    program = torch.export.load(export(settings(run, data_dir, "format=torch_export"))["output"])
    said = capsys.readouterr().out
    assert said.count("on 360 test images") == 2 and "MiB" in said and "ms" in said
    for count in (1, 7, 100):
        images = digits(data_dir, count)
        for found in (session.run(None, {"images": images}), program.module()(torch.from_numpy(images))):
            for ours, theirs in zip(expected(run, images), found, strict=True):
                assert np.asarray(theirs.detach() if isinstance(theirs, Tensor) else theirs) == pytest.approx(
                    ours, abs=1e-5
                )
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == list("0123456789")
    assert json.loads(facts["image_shape"]) == [1, 8, 8] and facts["input"].startswith("uint8")


def test_a_checkpoint_alone_has_the_plain_weights(run_train: RunTrain) -> None:
    run = run_train(*SMALL, "normalization=z_score")
    content = torch.load(run.best, weights_only=True)
    module = lithydra.load(run.path)
    weights = {name.removeprefix("net."): x for name, x in content["state_dict"].items() if name.startswith("net.")}
    module.net.load_state_dict(weights)
    assert torch.equal(content["state_dict"]["normalization.mean"], module.normalization.mean)
    assert content["record"]["data"]["class_names"] == list("0123456789")


def test_without_preprocessing_normalized_images_go_in(run_train: RunTrain, data_dir: Path) -> None:
    run = run_train(
        *SMALL, "normalization=z_score", "data.classes=[2,6]", "data.limit=200", "loss=binary_cross_entropy"
    )
    output = run.path / "plain.onnx"
    export(settings(run, data_dir, "preprocessing=false", f"output={output}", "num_images=20"))
    session = onnxruntime.InferenceSession(output)
    images = digits(data_dir, 5)
    normalized = lithydra.load(run.path).normalization(torch.from_numpy(images)).numpy()
    logits, probabilities = session.run(None, {"images": normalized})
    assert logits.shape == (5, 1) and probabilities.shape == (5, 2)
    assert probabilities == pytest.approx(expected(run, images)[1], abs=1e-5)


def test_a_model_with_other_numbers_is_an_error(
    run_train: RunTrain, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def a_bit_off(model: export_module.Exported, *arguments: object) -> export_module.Runner:
        Path(arguments[2]).touch()  # pyright: ignore[reportArgumentType]
        return lambda images: (model(images)[0] + 2e-4, model(images)[1])

    monkeypatch.setitem(export_module.WRITERS, "onnx", a_bit_off)
    with pytest.raises(LithydraError, match=r"model\.onnx: differs from the run's model by 2\.0\de-04, more than"):
        export(settings(run_train(*SMALL), data_dir))


def test_latencies_are_in_milliseconds(
    run_train: RunTrain, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a clock of its own, on which a call takes a quarter of a second."""
    readings = itertools.count()
    monkeypatch.setattr(export_module, "time", SimpleNamespace(perf_counter=lambda: next(readings) / 4))
    found = export(settings(run_train(*SMALL), data_dir))
    assert {found[name][key] for name in ("PyTorch", "onnx") for key in ("ms_for_one", "ms_for_batch")} == {250}
    assert capsys.readouterr().out.count("250.00 ms") == 4


def test_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnx" else object())
    with pytest.raises(
        ConfigError, match=r'^onnx: not installed; this needs pip install -c constraints\.txt -e "\.\[export\]"$'
    ):
        require_extra("export", "onnx", "onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "cnn", "alexnet", "resnet18", "resnet9", "nearest_mean"])
def test_models_export(run_train: RunTrain, data_dir: Path, model: str) -> None:
    run = run_train(*SMALL, f"model={model}", "data.image_size=32", "trainer.max_epochs=1")
    assert export(settings(run, data_dir))["output"].exists()
    assert export(settings(run, data_dir, "format=torch_export"))["output"].exists()
