"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747)."""

from pathlib import Path
from typing import Any

from lithydra.data.base import ImageDataModule
from lithydra.data.prepare import Arrays, fingerprint, prepared
from lithydra.data.sources import download, idx_files


class FashionMNIST(ImageDataModule):
    """60,000 and 10,000 grey images of 28x28 pixels, 10 classes.

    `debian_dir` is where Debian's package dataset-fashion-mnist puts its files.
    """

    def __init__(self, *, dir: str, debian_dir: str = "/usr/share/datasets/fashion-mnist", **common: Any) -> None:
        super().__init__(**common)
        self.dir, self.debian_dir = Path(dir), Path(debian_dir)
        self.file = self.dir / "fashion_mnist.npz"

    def read(self) -> Arrays:
        raw = idx_files(self.dir / "FashionMNIST" / "raw", "torchvision's raw files")
        debian = idx_files(self.debian_dir, "Debian's dataset-fashion-mnist")
        return prepared(self.file, num_classes=10, sources=[raw, debian, download("FashionMNIST", self.dir)])

    def class_names(self) -> tuple[str, ...]:
        return (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        )

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(self.file)
