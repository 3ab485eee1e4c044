"""CIFAR-10 (Krizhevsky 2009, Learning multiple layers of features from tiny images)."""

from pathlib import Path
from typing import Any

from lithydra.data.base import ImageDataModule
from lithydra.data.prepare import Arrays, fingerprint, prepared
from lithydra.data.sources import download, torchvision_files


class CIFAR10(ImageDataModule):
    """50,000 and 10,000 color images of 32x32 pixels, 10 classes."""

    def __init__(self, *, dir: str, **common: Any) -> None:
        super().__init__(**common)
        self.dir = Path(dir)
        self.file = self.dir / "cifar10.npz"

    def read(self) -> Arrays:
        raw = torchvision_files("CIFAR10", self.dir, "cifar-10-batches-py")
        return prepared(self.file, num_classes=10, sources=[raw, download("CIFAR10", self.dir)])

    def class_names(self) -> tuple[str, ...]:
        return ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(self.file)
