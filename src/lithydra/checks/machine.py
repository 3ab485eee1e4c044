"""Settings that ask for what this machine does not have: a device, a package, a folder, a file."""

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lithydra.checks.extras import not_installed

LOGGERS = {"wandb", "mlflow", "trackio"}  # each writes with the package of its name, which an extra of that name brings


def device(config: dict[str, Any]) -> Iterator[str]:
    trainer = config["trainer"]
    if trainer["accelerator"] in ("gpu", "cuda") and not gpu_device_exists():
        several = str(trainer.get("strategy", "")).startswith("ddp")
        asked, other = ("ddp", "ddp_cpu") if several else ("gpu", "auto")
        yield f"accelerator={asked}: this machine has no GPU; accelerator=cpu or accelerator={other} trains without one"
    on_cpu = trainer["accelerator"] == "cpu" or (trainer["accelerator"] == "auto" and not gpu_device_exists())
    if str(trainer["precision"]) in ("16", "16-mixed") and on_cpu:
        yield f"trainer.precision={trainer['precision']}: needs a GPU; on a CPU use bf16-mixed or 32-true"
    if config["compile"] == "graph" and (on_cpu or trainer["accelerator"] == "mps"):
        yield "compile=graph: needs a GPU of Nvidia's; compile=true compiles for others"
    if trainer["accelerator"] == "mps" and sys.platform != "darwin":
        yield "accelerator=mps: this machine has no GPU of Apple's; accelerator=cpu trains without one"
    on_mac = trainer["accelerator"] == "mps" or (trainer["accelerator"] == "auto" and sys.platform == "darwin")
    if str(trainer["precision"]) in ("64", "64-true") and on_mac:
        yield f"trainer.precision={trainer['precision']}: Apple's GPUs have no float64; accelerator=cpu has"
    if trainer.get("sync_batchnorm") and on_cpu:
        yield "trainer.sync_batchnorm=true: works between GPUs alone; on a CPU leave it false"


def gpu_device_exists() -> bool:
    """Whether the kernel knows a GPU: Nvidia, AMD, or Windows' through WSL. Torch has the last word, later."""
    return (
        any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")) or not Path("/dev").exists()
    )


def loggers(config: dict[str, Any]) -> Iterator[str]:
    for name in sorted(config["logger"].keys() & LOGGERS):
        if find_spec(name) is None:
            yield f"logger={name}: {not_installed(name)}"


def directories(config: dict[str, Any]) -> Iterator[str]:
    if config["run"] and config["resume"]:
        yield f"run={config['run']}: resume={config['resume']} names the run directory already"
    # Of several processes that a cluster starts, the first may have begun. Lightning says later which one this is.
    ranks = {os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK")}
    if config["run"] and ranks == {"0"} and os.path.exists(Path(config["run"], "status.json")):
        yield f"run={config['run']}: holds a run already; resume={config['run']} goes on with it"
    refused: set[Path] = set()  # runs and sweeps often lie below the same file
    for key in ("runs", "sweeps", "data"):
        path = Path(config["paths"][key])
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        if existing in refused:
            continue
        if not existing.is_dir():
            refused.add(existing)
            yield f"paths.{key}={path}: {existing} is a file, not a directory"
        elif key == "runs" and not config["run"] and not config["resume"] and not os.access(existing, os.W_OK):
            yield f"paths.{key}={path}: cannot be written"


def own_data(config: dict[str, Any]) -> Iterator[str]:
    """The files of data=npz and data=image_folder; what is in them is looked at later."""
    data = config["data"]
    target, path = str(data.get("_target_", "")).rpartition(".")[2], data.get("path")
    if target == "Npz" and path is None:
        yield "data.path=null: data=npz needs data.path=FILE.npz with x_train y_train x_test y_test"
    elif target == "ImageFolder" and path is None:
        yield "data.path=null: data=image_folder needs data.path=FOLDER with a folder for each class"
    elif target == "Npz" and not Path(str(path)).expanduser().is_file():
        yield f"data.path={path}: no such file; data=npz needs data.path=FILE.npz"
    elif target == "ImageFolder" and not Path(str(path)).expanduser().is_dir():
        yield f"data.path={path}: no such folder"
    if target == "ImageFolder" and data.get("image_size", 0) is None:
        yield "data.image_size=null: data=image_folder needs a side in pixels"
