"""What the scripts that work on a run can refuse before torch is imported."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lithydra.checks import RULES, broken_rules, resolved
from lithydra.combinations import gpu_device_exists
from lithydra.errors import ConfigError, nearest
from lithydra.rules import COUNT, FLAG, SEED, Choice, ListOf, Number, Text, optional
from lithydra.run_dir import RunDir

CHECKPOINTS = ("best", "last", "previous")
COMMON = {
    "run": Text(),
    "checkpoint": Choice(CHECKPOINTS),
    "seed": SEED,
    "paths.*": Text(),
    "accelerator.channels_last": FLAG,
    "accelerator.matmul_precision": Choice(("highest", "high", "medium")),
    "trainer.accelerator": RULES["trainer.accelerator"],
    "trainer.devices": RULES["trainer.devices"],
}
DATA = {key: rule for key, rule in RULES.items() if key.startswith("data.")}
RUNS_SEED = {"seed": optional(SEED), "data.seed": optional(SEED)}  # null: the run's
EVALUATE = {**COMMON, **DATA, **RUNS_SEED, "split": Choice(("test", "val", "train"))}
PREDICT = {
    **COMMON,
    "input": Text(),
    "top_k": COUNT,
    "batch_size": COUNT,
    "format": Choice(("csv", "json")),
    "output": optional(Text()),
    "contact_sheet": Number(least=0, whole=True),
    "invert": FLAG,
}
EXPORT = {
    **COMMON,
    "format": Choice(("onnx", "torch_export", "state_dict")),
    "preprocessing": FLAG,
    "output": optional(Text()),
    "num_images": COUNT,
}
EXPLAIN = {
    **COMMON,
    "images": optional(ListOf(Number(least=0, whole=True), min_length=1)),
    "num_images": COUNT,
    "only": Choice(("all", "mistakes", "right")),
    "target": Choice(("predicted", "label")),
    "output": optional(Text()),
}
SERVE = {**COMMON, "host": Text(), "port": Number(least=1, most=65535, whole=True)}
REPRODUCE_RUN = {"run": Text(), "output": optional(Text()), "paths.*": Text()}
OTHER_KEYS = ("data", "trainer", "accelerator", "paths", "sweep")


def check_verb(config: DictConfig, rules: dict[str, Any]) -> None:
    """Raise ConfigError for a setting, a run or a checkpoint that is not there."""
    _open(_check(config, rules))


def check_predict(config: DictConfig) -> None:
    """Raise ConfigError for a setting, a run, a checkpoint or an input that is not there."""
    plain = _check(config, PREDICT)
    run = _open(plain)
    source = Path(plain["input"]).expanduser()
    if not source.exists() and not any(sign in plain["input"] for sign in "*?["):
        raise ConfigError(f"input={plain['input']}: no such file or folder")
    output = Path(plain["output"]) if plain["output"] else run.path / f"predictions.{plain['format']}"
    if output.is_dir() or not output.parent.is_dir():
        raise ConfigError(f"output={output}: {'a folder' if output.is_dir() else 'its folder does not exist'}")
    if plain["contact_sheet"] and output.suffix == ".png":
        raise ConfigError(f"output={output}: the contact sheet goes there; give another name, or contact_sheet=0")


def _check(config: DictConfig, rules: dict[str, Any]) -> dict[str, Any]:
    for key in ("run", "input"):
        if OmegaConf.is_missing(config, key):
            raise ConfigError(f"{key}: must be given, as {key}={'outputs/runs/NAME' if key == 'run' else 'IMAGE'}")
    plain = resolved(config)
    known = (*(key for key in rules if "." not in key), *OTHER_KEYS)
    unknown = [f"{key}: no such setting.{nearest(key, known)}" for key in plain if key not in known]
    problems = [*unknown, *broken_rules(plain, rules), *_no_gpu(plain)]
    if problems:
        raise ConfigError("\n".join(problems))
    return plain


def _no_gpu(plain: dict[str, Any]) -> list[str]:
    if plain.get("trainer", {}).get("accelerator") in ("gpu", "cuda") and not gpu_device_exists():
        return ["accelerator=gpu: this machine has no GPU; accelerator=cpu or accelerator=auto works without one"]
    return []


def _open(plain: dict[str, Any]) -> RunDir:
    run = RunDir.open(Path(plain["run"]))
    run.named_checkpoint(plain.get("checkpoint", "best"))
    return run
