"""The settings of the verbs that work on runs, and their check before torch is imported."""

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lithydra.checks.config import RULES, broken_rules, resolved
from lithydra.checks.extras import require_extra
from lithydra.checks.machine import gpu_device_exists, own_data
from lithydra.checks.output import DEFAULTS, SUFFIXES, output_problem
from lithydra.checks.rules import (
    COUNT,
    FLAG,
    NULL,
    PATH,
    SEED,
    TEXT,
    THRESHOLD,
    AnyOf,
    Choice,
    ListOf,
    Number,
    optional,
    shown,
)
from lithydra.errors import ConfigError, nearest, refuse
from lithydra.files import refuse_links_out
from lithydra.run.directory import RunDir

NUM_DRAWN = Number(least=1, most=100, whole=True)  # images side by side on one picture
PATHS = {f"paths.{name}": PATH for name in ("data", "outputs", "runs", "sweeps")}
OUTPUT = {"output": optional(PATH)}
TRUST = {"trust": ListOf(TEXT)}
RUN = {
    "run": PATH,
    "checkpoint": Choice(("best", "last", "previous")),
    "weights": Choice(("averaged", "trained")),
    "tta": optional(RULES["tta"]),
    **TRUST,
    **PATHS,
}
DEVICE_KEYS = (
    *("accelerator.channels_last", "accelerator.threads", "accelerator.matmul_precision"),
    *("trainer.accelerator", "trainer.devices"),
)
DEVICE = {key: RULES[key] for key in DEVICE_KEYS}

# By verb, what each of its settings may be. All of them must be there, and no others.
VERBS: dict[str, dict[str, Any]] = {
    "compare": {"runs": ListOf(PATH, min_length=1), "mistakes": FLAG, **TRUST, **OUTPUT, **PATHS},
    "evaluate": {**RUN, **DEVICE, "seed": optional(SEED), "split": Choice(("test", "val", "train"))},
    "explain": {
        **RUN,
        **OUTPUT,
        "images": optional(ListOf(Number(least=0, most=2**31, whole=True), min_length=1, max_length=100)),
        "num_images": NUM_DRAWN,
        "only": Choice(("all", "mistakes", "right")),
        "target": Choice(("predicted", "label")),
    },
    "export": {**RUN, **OUTPUT, "format": Choice(tuple(SUFFIXES)), "preprocessing": FLAG, "num_images": COUNT},
    "predict": {
        **RUN,
        **DEVICE,
        **OUTPUT,
        "input": PATH,
        "top_k": optional(COUNT),
        "batch_size": COUNT,
        "format": Choice(("csv", "json")),
        "contact_sheet": Number(least=0, most=1000, whole=True),
        "invert": FLAG,
    },
    "report": {"sweep": PATH, "until": optional(THRESHOLD)},
    "reproduce_run": {"run": PATH, **TRUST, **OUTPUT, **PATHS},
    "runs": {
        "runs": optional(ListOf(PATH, min_length=1)),
        **{key: optional(TEXT) for key in ("where", "sort", "columns", "tag", "untag")},
        "note": AnyOf((NULL, TEXT, Choice(("",)))),
        "limit": AnyOf((Choice(("auto",)), NULL, COUNT)),
        "format": Choice(("table", "csv", "json", "html")),
        "delete": AnyOf((NULL, TEXT, FLAG)),
        "ask": FLAG,
        **PATHS,
    },
    "serve": {**RUN, "host": TEXT, "port": Number(least=1, most=65535, whole=True)},
}
# What some choices of accelerator set besides; a script computes on one device, in the run's precision.
BESIDES = {"trainer.precision": RULES["trainer.precision"], "trainer.strategy": TEXT}
# By verb, what need not be there.
OPTIONAL = {"evaluate": {**BESIDES, "data": Choice((None,))}, "predict": BESIDES}
EXTRAS = {"explain": ("explain", "captum"), "serve": ("serve", "gradio")}  # extra and packages
EXAMPLES = {
    "run": "as run=outputs/runs/NAME",
    "input": "as input=IMAGE",
    "sweep": "as sweep=outputs/sweeps/NAME",
    "runs": "as python scripts/compare.py outputs/runs/ONE outputs/runs/OTHER",
}


def check_verb(config: DictConfig, verb: str) -> None:
    """Raise ConfigError for a setting, a run, a checkpoint, an input or an output that cannot be used."""
    if missing := [key for key in EXAMPLES if OmegaConf.is_missing(config, key)]:
        raise ConfigError("\n".join(f"{key}: must be given, {EXAMPLES[key]}" for key in missing))
    plain = resolved(config)
    written: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # pyright: ignore[reportAssignmentType]
    refuse(_setting_problems(plain, written, VERBS[verb], OPTIONAL.get(verb, {})))
    refuse(_no_gpu(plain))
    _open(plain)
    refuse(_file_problems(plain, verb))
    _require_extra(plain, verb)


def _setting_problems(
    plain: dict[str, Any], written: dict[str, Any], rules: Mapping[str, Any], more: Mapping[str, Any]
) -> Iterator[str]:
    """A line for each setting that nothing reads, that is gone, or that is not what its rule allows."""
    known = {**rules, **more}
    if "data" in known and isinstance(plain.get("data"), dict):
        yield from _data_problems(plain["data"])
        plain = {key: value for key, value in plain.items() if key != "data"}
    found = [*_settings(plain, known)]
    if missing := [key for key in rules if key not in found]:
        yield f"{', '.join(missing)}: missing; ~ drops nothing that a script reads"
    for key in found:
        if key not in known:
            yield f"{key}: no such setting.{nearest(key, known)}"
    yield from broken_rules(plain, known, written)


def _settings(node: dict[str, Any], known: Iterable[str], prefix: str = "") -> Iterator[str]:
    """Dotted keys. A dict where conf/ has no group is a value."""
    for key, value in node.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and any(name.startswith(f"{path}.") for name in known):
            yield from _settings(value, known, f"{path}.")
        else:
            yield path


def _data_problems(data: dict[str, Any]) -> Iterator[str]:
    """Problems of the other data set of evaluate; its class finds the rest when it is made."""
    if data.get("_target_") not in TEXT:
        yield f"data._target_={shown(data.get('_target_'))}: must be a piece of text; data=NAME chooses a data set"
    runs_seed = ("seed",) if data.get("seed") is None else ()
    plain = {"data": {key: value for key, value in data.items() if key not in runs_seed}}
    broken = [*broken_rules(plain, RULES)]
    yield from broken or own_data(plain)


def _no_gpu(plain: dict[str, Any]) -> Iterator[str]:
    if plain.get("trainer", {}).get("accelerator") in ("gpu", "cuda") and not gpu_device_exists():
        yield "accelerator=gpu: this machine has no GPU; accelerator=cpu or accelerator=auto works without one"


def _open(plain: dict[str, Any]) -> None:
    """Raises ConfigError where a run or a checkpoint is not there."""
    for path in plain.get("runs") or ():
        RunDir.open(Path(path), "runs")
    if "run" in plain:
        run = RunDir.open(Path(plain["run"]))
        run.named_checkpoint(plain.get("checkpoint", "best"))
        if plain.get("output", "") is None:
            refuse_links_out(run.path)


def _file_problems(plain: dict[str, Any], verb: str) -> Iterator[str]:
    source = plain.get("input")
    if source and not os.path.exists(os.path.expanduser(source)) and not any(sign in source for sign in "*?["):
        yield f"input={source}: no such file or folder"
    if verb == "runs" and not (plain["runs"] or plain["where"]):
        changes = {"tag", "untag", "note"} | ({"delete"} if plain["delete"] is True else set())
        for key in sorted(key for key in changes if plain[key] not in (None, False)):
            yield f"{key}={shown(plain[key])}: of which runs? where=… chooses some, or name them: runs.py RUN RUN …"
    if verb == "serve" and (problem := _address_problem(plain["host"], plain["port"])):
        yield problem
    if verb in DEFAULTS and (problem := output_problem(verb, plain)):
        yield problem
    elif verb == "predict" and plain["contact_sheet"] and str(plain["output"]).endswith(".png"):
        yield f"output={plain['output']}: the contact sheet goes there; give another name, or contact_sheet=0"


def _address_problem(host: str, port: int) -> str | None:
    """Why nothing can be served at an address."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            tried.bind((host, port))
        except OSError as error:
            key = f"port={port}" if error.errno in (errno.EADDRINUSE, errno.EACCES) else f"host={host}"
            return f"{key}: {error.strerror}; nothing can be served there"
    return None


def _require_extra(plain: dict[str, Any], verb: str) -> None:
    if verb == "export" and plain["format"] == "onnx":
        require_extra("export", "onnx", "onnxscript", "onnxruntime")
    elif verb in EXTRAS:
        require_extra(*EXTRAS[verb])
