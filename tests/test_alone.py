"""Promise 4: a checkpoint alone is enough. In a fresh process, elsewhere, it gives the logits that the run gave."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import ROOT, Compose, RunTrain
from lithydra.training.loading import load
from offered import ALL, FEW_STEPS, overrides
from test_contracts import SLOW, image_size, stand_in

PROMISE = "4. A checkpoint alone is enough"

# Reads every checkpoint with plain torch first, then rebuilds the net; no config file of the checkout is opened.
FRESH_PROCESS = """
import json, sys, builtins, torch, lithydra
real_open = builtins.open
def guarded(file, *arguments, **keywords):
    assert not str(file).endswith((".yaml", ".yml")), file
    return real_open(file, *arguments, **keywords)
builtins.open = guarded
equal = {}
for name in json.load(sys.stdin):
    torch.load(f"{name}/alone.ckpt", weights_only=True)
    kept = torch.load(f"{name}/logits.pt", weights_only=True)
    with torch.no_grad():
        equal[name] = torch.equal(lithydra.load(f"{name}/alone.ckpt")(kept["images"]), kept["logits"])
print(json.dumps(equal))
"""
NOT_TRAINED = {"accelerator/gpu", "accelerator/gpu_bf16", "accelerator/ddp", "accelerator/ddp_cpu", "accelerator/mps"}
NEEDS_PACKAGE = {"logger/wandb", "logger/mlflow", "logger/trackio"}
TAKE_NO_IMAGES = {"module/autoencoder", "module/gan"}  # uint8; they are loaded in test_own_module
SHIPPED = [choice for choice in ALL if choice not in {*NOT_TRAINED, *NEEDS_PACKAGE, *TAKE_NO_IMAGES}]
FAST = ["model/mlp", "model/cnn", "model/nearest_mean", "normalization/z_score", "loss/binary_cross_entropy"]
QUICK = ("trainer.max_epochs=1", "trainer.max_steps=2", "callbacks=none", "logger=none")


def settings_for(choice: str, compose: Compose, tiny_npz: Path, folder: Path) -> list[str]:
    """What lets a choice train two steps on little data."""
    group, _, name = choice.partition("/")
    given = list(overrides(choice))
    if group == "data":
        return [*given, *stand_in(name, compose, tiny_npz, folder), *QUICK, "data.batch_size=16"]
    if group == "experiment":
        config = compose(*given)
        if config.init["from"]:  # a run that another experiment makes
            given += ["init.from=null", "init.freeze=none", "init.head=auto"]
        data = str(config.data.name)
        stand_ins = [*stand_in(data, compose, tiny_npz, folder), *([] if data == "digits" else ["data.limit=null"])]
        if config.method.get("teacher"):
            given += ["method.teacher=TEACHER"]
        size = config.data.get("image_size")  # for which its net is made
        sizes = [f"data.image_size={size}"] if size else []
        return [*given, *stand_ins, *sizes, *QUICK, "data.batch_size=8", "data.val_fraction=0"]
    if group == "model":
        return [*given, *FEW_STEPS, *image_size(compose(*FEW_STEPS, *given))]
    if group == "debug":
        return [*given, "data.limit=64", "data.val_fraction=0.25", "trainer.max_epochs=1", "callbacks=none"]
    needed = given if group not in ("callbacks", "logger", "trainer") else [*given, "data.limit=300"]
    chosen = "callbacks" if choice == "variant/early_stopping" else group
    extra = [key for key in QUICK if not key.startswith((f"{chosen}=", "trainer.max_epochs"))]
    limit = [] if any(key.startswith("data.limit") for key in needed) else ["data.limit=300"]
    return [*needed, *limit, *extra]


def equal_in_a_fresh_process(choices: list[str], folder: Path) -> dict[str, bool]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS],
        input=json.dumps(choices),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param(FAST, id="some", marks=pytest.mark.counted("shipped configs", len(FAST))),
        pytest.param(SHIPPED, id="all", marks=[pytest.mark.slow, pytest.mark.counted("shipped configs", len(SHIPPED))]),
    ],
)
def test_logits_are_equal_in_a_fresh_process_elsewhere(
    choices: list[str], run_train: RunTrain, compose: Compose, tiny_npz: Path, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh"
    for choice in choices:
        work = tmp_path / choice
        work.mkdir(parents=True)
        settings = settings_for(choice, compose, tiny_npz, work)
        if any("TEACHER" in setting for setting in settings):
            data = [setting for setting in settings if setting.startswith(("data.", "paths."))]
            teacher = run_train(f"data={compose(*settings).data.name}", *data, *QUICK)
            settings = [setting.replace("TEACHER", str(teacher.path)) for setting in settings]
        run = run_train("test=false", *settings)
        module = load(run.path, "last")
        images = torch.randint(0, 256, (5, *module.record["data"]["image_shape"]), dtype=torch.uint8)
        (fresh / choice).mkdir(parents=True)
        with torch.no_grad():
            torch.save({"images": images, "logits": module(images)}, fresh / choice / "logits.pt")
        run.last.rename(fresh / choice / "alone.ckpt")
    equal = equal_in_a_fresh_process(choices, fresh)
    assert equal == dict.fromkeys(choices, True)


def test_the_large_models_are_among_them() -> None:
    assert set(SLOW) <= set(SHIPPED)
