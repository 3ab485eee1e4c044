"""A person's own images in one npz file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lithydra.data.base import ImageDataModule
from lithydra.data.prepare import Arrays, fingerprint, load
from lithydra.errors import ConfigError


class Npz(ImageDataModule):
    """The arrays x_train, y_train, x_test and y_test of a file. Without `class_names`, classes are called 0, 1, …"""

    def __init__(self, *, path: str, class_names: Sequence[str] | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise ConfigError(f"data.path={path}: no such file; data=npz needs data.path=FILE.npz")
        self._given_names = None if class_names is None else tuple(map(str, class_names))
        self._num_found: int | None = None  # classes, once the file is read

    def read(self) -> Arrays:
        arrays = load(self.path, mend="write it again with numpy.savez")
        self._num_found = int(arrays.y_train.max()) + 1
        if self._given_names is not None and len(self._given_names) != self._num_found:
            raise ConfigError(
                f"data.class_names: {len(self._given_names)} names for the {self._num_found} classes of {self.path}"
            )
        return arrays

    def class_names(self) -> tuple[str, ...]:
        if self._num_found is None:
            self.read()
        assert self._num_found is not None
        return self._given_names or tuple(str(label) for label in range(self._num_found))

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(self.path)
