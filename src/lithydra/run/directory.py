"""The files of a run, written and read back. Torch is not imported here, so that reading a run is instant."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from lithydra.errors import ConfigError
from lithydra.files import append_rows, read_header, read_rows, write_json, write_rows, write_text
from lithydra.run.moved import with_moved_names

log = logging.getLogger(__name__)

COLUMNS = ("epoch", "step", "seconds")  # of metrics.csv, beside what the run measures
TIMES = ("training_seconds", "seconds")  # no two runs have the same
NO_METRICS = ("epoch", "step", "lr", *TIMES)
LAYER_COLUMNS = ("epoch", "layer", "quantity", "value")
# Keys of status.json and provenance.json that are read, and what they hold.
STATUS: dict[str, type] = {"state": str, "epoch": int, "step": int, "best_epoch": int, "metrics": dict}
PROVENANCE: dict[str, type] = {"choices": dict, "overrides": list, "hardware": dict, "resumed": list}
PROFILE = "profile"  # what the files of a profiler have in their names
CONFIG_GROUPS = ("data", "model", "optimizer", "trainer")  # some of what config.yaml has
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where it is there: in 1 ms instead of 6
CONFIG_END = "\n...\n"  # of config.yaml, if it is whole


class RunDir:
    """The directory of one run. Files inside are named relative to it, so that a moved run still works."""

    def __init__(self, path: Path, found: frozenset[str] | None = None) -> None:
        self.path = path
        self.found = found  # of a run that this process begins: the names that were in the directory before
        self.config = path / "config.yaml"
        self.command = path / "command.txt"
        self.provenance = path / "provenance.json"
        self.status = path / "status.json"
        self.metrics = path / "metrics.csv"
        self.layers = path / "layers.csv"
        self.class_scores = path / "class_scores.csv"
        self.log = path / "train.log"
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"
        self.last = self.checkpoints / "last.ckpt"
        self.previous = self.checkpoints / "previous.ckpt"
        self.histograms = path / "histograms.npz"
        self.plots = path / "plots"
        self.tensorboard = path / "tensorboard"
        self.page = path / "run.html"
        self.labels = path / "labels.json"

    @classmethod
    def open(cls, path: Path, key: str = "run") -> "RunDir":
        """An existing run. Raises ConfigError, naming `key`, where there is none."""
        run = cls(path)
        if not os.path.isdir(path):  # unlike Path's, it takes a name that is too long
            raise ConfigError(
                f"{key}={path}: {'a file, not a directory' if os.path.isfile(path) else 'no such directory'}"
            )
        if not run.config.exists() and not run.last.exists():
            raise ConfigError(f"{key}={path}: not a run directory (it has no config.yaml)")
        return run

    def relative(self, path: Path) -> str:
        return str(path.relative_to(self.path))

    def read_config(self) -> dict[str, Any]:
        """Raises ConfigError where config.yaml is not one that a run wrote."""
        try:
            config = yaml.load(self.config.read_text(), YAML_LOADER)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{self.config}: cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in CONFIG_GROUPS):
            raise ConfigError(f"{self.config}: not the config of a run")
        return with_moved_names(config)

    def write_config(self, config: dict[str, Any]) -> None:
        write_text(self.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True, explicit_end=True))

    def update_status(self, **changes: Any) -> None:
        """Merge `changes` into status.json, where None takes a key out; a reader never sees half a file."""
        status = {**self.read_status(), **changes}
        write_json(self.status, {key: value for key, value in status.items() if value is not None})

    def read_status(self) -> dict[str, Any]:
        return self.read_json(self.status, STATUS)

    def read_json(self, path: Path, types: dict[str, type]) -> dict[str, Any]:
        """Raises ConfigError where the file is there and is not what a run writes. `types` are those of some keys."""
        try:
            content = json.loads(path.read_text()) if path.exists() else {}
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{path}: damaged ({error})") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: damaged (not a JSON object)")
        if wrong := [key for key, kind in types.items() if key in content and not isinstance(content[key], kind)]:
            raise ConfigError(f"{path}: damaged ({wrong[0]} is {content[wrong[0]]!r})")
        return content

    def add_provenance(self, origin: dict[str, Any]) -> None:
        """Write provenance.json; of a run that goes on, what it began with stays, and `resumed` lists the rest."""
        if first := self.read_provenance():
            origin = {**first, "resumed": [*first.get("resumed", []), origin]}
        write_json(self.provenance, origin)

    def read_provenance(self) -> dict[str, Any]:
        """Empty before the run has written it."""
        origin = self.read_json(self.provenance, PROVENANCE)
        if origin and (missing := PROVENANCE.keys() - {"resumed"} - origin.keys()):
            raise ConfigError(f"{self.provenance}: damaged (no {min(missing)})")
        return origin

    def origin(self) -> dict[str, Any]:
        """What the run has recorded of where it comes from. Raises ConfigError where that is lost or damaged."""
        if not (origin := self.read_provenance()):
            raise ConfigError(f"{self.provenance}: lost; it says what the run was trained with")
        return origin

    def origins(self) -> list[dict[str, Any]]:
        """What provenance.json holds of each command that the run was trained with, the first one's first."""
        origin = self.read_provenance()
        return [origin, *origin.get("resumed", [])] if origin else []

    def read_command(self) -> str:
        """The command lines that the run was trained with."""
        return self.command.read_text(errors="replace") if self.command.is_file() else ""

    def add_metrics(self, row: dict[str, Any], expected: Sequence[str] = ()) -> None:
        """Append an epoch to metrics.csv.

        Args:
            expected: Metrics that get a column from the start; one that comes later has the file written anew.
        """
        header = read_header(self.metrics)
        measured = [name for name in (*header, *expected, *row) if name not in NO_METRICS]
        columns = tuple(dict.fromkeys(("epoch", "step", "lr", *measured, *TIMES)))
        if not header or columns == header:
            append_rows(self.metrics, columns, [row])
        else:
            write_rows(self.metrics, columns, [*self.read_metrics(), row])

    def read_metrics(self) -> list[dict[str, str]]:
        return read_rows(self.metrics, COLUMNS)

    def read_layers(self) -> list[dict[str, str]]:
        """What the callback `layer_statistics` measured."""
        return read_rows(self.layers, LAYER_COLUMNS, text=("layer", "quantity"))

    def keep_metrics(self, num_epochs: int) -> None:
        """Drop the rows after `num_epochs`, which a resumed run writes again, and what is damaged. Say what is lost."""
        rows = [row for row in self.read_metrics() if int(row["epoch"]) <= num_epochs]
        if lost := sorted({*range(1, num_epochs + 1)} - {int(row["epoch"]) for row in rows}):
            listed = ", ".join(map(str, lost[:5])) + (", …" if len(lost) > 5 else "")
            log.warning("%s: the rows of %d of %d epochs are lost: %s", self.metrics, len(lost), num_epochs, listed)
        if rows:
            write_rows(self.metrics, tuple(rows[0]), rows)
        else:
            self.metrics.unlink(missing_ok=True)

    def checkpoint(self) -> Path:
        """The checkpoint that stands for the run: the best by validation, or the last where nothing was validated.

        Raises:
            ConfigError: There is none yet, or the best one has been lost: other weights would not be those of the
                run's metrics.
        """
        if self.best.exists():
            return self.best
        if not self.last.exists():
            raise ConfigError(f"run={self.path}: has no checkpoint yet")
        if (epoch := self.read_status().get("best_epoch")) is not None:
            raise ConfigError(
                f"checkpoint=best: {self.best} is lost (epoch {epoch}); checkpoint=last takes the last weights"
            )
        return self.last

    def named_checkpoint(self, name: str) -> Path:
        """The file of `checkpoint=best|last|previous`."""
        if name == "best":
            return self.checkpoint()
        path = self.checkpoints / f"{name}.ckpt"
        if name not in ("last", "previous") or not path.exists():
            there = sorted(p.stem for p in self.checkpoints.glob("*.ckpt"))
            raise ConfigError(f"checkpoint={name}: {self.path} has {', '.join(there) or 'no checkpoint yet'}")
        return path


def training_seconds(rows: Sequence[Mapping[str, str]]) -> float | None:
    """Of the epochs in `rows` of metrics.csv, with their validation; None where there is none."""
    return sum(float(row["seconds"]) for row in rows) if rows else None


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
