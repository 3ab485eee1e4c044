"""MNIST (LeCun et al. 1998, Gradient-based learning applied to document recognition)."""

from pathlib import Path
from typing import Any

from lithydra.data.base import ImageDataModule
from lithydra.data.prepare import Arrays, fingerprint, prepared
from lithydra.data.sources import download, idx_files


class MNIST(ImageDataModule):
    """60,000 and 10,000 grey images of 28x28 pixels, 10 classes."""

    def __init__(self, *, dir: str, **common: Any) -> None:
        super().__init__(**common)
        self.dir = Path(dir)
        self.file = self.dir / "mnist.npz"

    def read(self) -> Arrays:
        raw = idx_files(self.dir / "MNIST" / "raw", "torchvision's raw files")
        return prepared(self.file, num_classes=10, sources=[raw, download("MNIST", self.dir)])

    def class_names(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(self.file)
