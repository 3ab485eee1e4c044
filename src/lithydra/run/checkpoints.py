"""Checkpoint files that are whole or absent, and that say so when they are damaged.

A file is what torch.save writes, followed by the SHA-256 of those bytes. torch.load ignores what follows its archive,
so any program can read the file; only lithydra checks it.
"""

import hashlib
import os
import pickle
import shutil
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins import CheckpointIO

from lithydra.errors import LithydraError
from lithydra.files import beside, replacing, sync
from lithydra.run.moved import ORIGIN, with_moved_names

MARK = b"lithydra sha256 "  # kept by make project: old checkpoints have it
TRAINING_STATE = ("method.", "average.")  # of a state_dict, what only training needs
TRAILER_BYTES = len(MARK) + hashlib.sha256().digest_size


class DamagedCheckpoint(LithydraError):
    """The file is not what was written: cut off, or changed."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target, syncs, then replaces it at once; checks the checksum before anything is unpickled."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """`storage_options` may hold `previous`: the name that an old file at `path` is kept under."""
        save(checkpoint, Path(path), **(storage_options or {}))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return load(Path(path), map_location)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def save(checkpoint: dict[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write `checkpoint` (plain data and tensors) to `path`, atomically and durably.

    A file that `path` names already becomes `previous`, once the new one is whole beside it: two files with different
    content are there at any moment.

    Raises:
        LithydraError: The file cannot be written, a full disk for instance. A file that was there before stays whole.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            hashing = _HashingWriter(file)
            torch.save(checkpoint, hashing)  # pyright: ignore[reportArgumentType]
            file.write(MARK + hashing.sha256.digest())
            if previous is not None and path.exists():
                sync(file)
                link(path, previous)
    except (OSError, RuntimeError) as error:  # torch's archive writer turns a full disk into a RuntimeError
        raise LithydraError(f"{path}: the checkpoint could not be written: {error}") from error


def load(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint after checking it whole.

    Raises:
        DamagedCheckpoint: The checksum does not match.
    """
    if not path.exists():
        raise LithydraError(f"{path}: no such checkpoint")
    if not path.is_file():
        raise DamagedCheckpoint(f"{path}: not a file")
    with path.open("rb") as file:
        size = path.stat().st_size - TRAILER_BYTES
        file.seek(max(size, 0))
        trailer = file.read()
        file.seek(0)
        if not trailer.startswith(MARK) or _sha256(file, size) != trailer[len(MARK) :]:
            raise DamagedCheckpoint(f"{path}: damaged (its checksum does not match)")
        file.seek(0)
        try:
            content = torch.load(file, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise LithydraError(f"{path}: holds other things than tensors and plain values, and is not read") from error
    if isinstance(content, dict):
        if ORIGIN in content:  # where checkpoints of version 0.2 have their record
            content["record"] = content.pop(ORIGIN)
        if isinstance(written := content.get("record"), dict):
            with_moved_names(written.get("config"))
    return content


def evaluated_state(state: dict[str, Any], weights: str = "averaged") -> dict[str, Any]:
    """The state of a run's classifier without what only training needs.

    Args:
        state: The checkpoint's `state_dict`.
        weights: averaged, where there are averaged weights, or trained.
    """
    kept = {key: value for key, value in state.items() if not key.startswith(TRAINING_STATE)}
    averaged = {key.removeprefix("average."): value for key, value in state.items() if key.startswith("average.net.")}
    return kept | averaged if weights == "averaged" else kept


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, at once. `source` is later replaced, never rewritten."""
    with beside(target) as aside:
        try:
            os.link(source, aside)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, aside)


class _HashingWriter:
    """What torch.save needs of a file, with the checksum of all that went through."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _sha256(file: IO[bytes], size: int) -> bytes:
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)
    return digest.digest()
