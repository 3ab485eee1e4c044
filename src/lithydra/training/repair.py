"""What a resumed run needs of the files in its directory, where some of them are damaged."""

import logging
from pathlib import Path
from typing import Any

from lithydra.errors import ConfigError, LithydraError
from lithydra.files import set_aside
from lithydra.run.directory import CONFIG_END, RunDir

log = logging.getLogger(__name__)

FOLDERS = ("checkpoints", "plots", "tensorboard", "csv")
FILES = (
    *("config.yaml", "command.txt", "provenance.json", "status.json", "metrics.csv", "layers.csv"),
    *("histograms.npz", "run.html", "fit-profile.txt", "test-profile.txt"),
)


def repair(run: RunDir) -> None:
    """Set aside what would be in the way of a resumed run, and say so. Own the directory first.

    The checkpoint has all that a run needs: status.json and config.yaml are written anew, of metrics.csv and layers.csv
    the whole rows are kept, and what provenance.json and histograms.npz held begins anew.
    """
    for path in run.checkpoints.glob("*.ckpt"):
        if path.is_dir():
            set_aside(path, "a folder")
    for path in run.path.iterdir():
        if path.is_dir() != (path.name in FOLDERS) and path.name in {*FILES, *FOLDERS}:
            set_aside(path, "a folder" if path.is_dir() else "not a folder")
    for path, read in ((run.status, run.read_status), (run.provenance, run.read_provenance)):
        try:
            read()
        except ConfigError:
            set_aside(path, "damaged")


def stored_config(run: RunDir) -> dict[str, Any]:
    """The run's config, from a checkpoint where config.yaml is damaged or cut off.

    Raises:
        ConfigError: There is neither.
    """
    try:
        config = run.read_config()
        if run.config.read_text().endswith(CONFIG_END):
            return config
        problem: LithydraError = ConfigError(f"{run.config}: cut off")
    except ConfigError as error:
        config, problem = None, error
    try:
        found = newest(run, writes=False)
    except LithydraError:
        found = None
    if found is None and config is None:
        raise problem
    if found is None or found[1]["config"] == config:  # written by hand, or before there was such an end
        return config  # pyright: ignore[reportReturnType]
    log.warning("%s; taken from %s", problem, found[0].name)
    return found[1]["config"]


def newest(run: RunDir, *, writes: bool) -> tuple[Path, dict[str, Any]] | None:
    """The newest good checkpoint and what lithydra wrote in it. A damaged one is set aside, and said."""
    from lithydra.run.checkpoints import DamagedCheckpoint, link, load  # imports torch

    damage: DamagedCheckpoint | None = None
    for path in (run.last, run.previous, run.best):
        if not path.exists():
            continue
        try:
            written = load(path)["record"]
        except (DamagedCheckpoint, KeyError) as error:
            known = isinstance(error, DamagedCheckpoint)
            damage = error if known else DamagedCheckpoint(f"{path}: not a checkpoint of a run")
            log.warning("%s; trying the one before it", damage)
            if writes:  # else it would become previous.ckpt, in place of a good one
                set_aside(path, "damaged")
            continue
        if path != run.last and writes:
            link(path, run.last)
        return path, written
    if damage:
        raise damage
    return None
