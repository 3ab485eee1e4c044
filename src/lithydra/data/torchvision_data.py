"""Data sets of others that torchvision can download."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from lithydra.data.base import ImageDataModule
from lithydra.data.prepare import Arrays, Source, fingerprint, prepared
from lithydra.data.sources import download, idx_files, torchvision_files

CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


class TorchvisionData(ImageDataModule):
    """The data set that torchvision has under the name `published`, prepared as `dir`/FILE."""

    published: ClassVar[str]
    file_name: ClassVar[str]
    labels: ClassVar[tuple[str, ...]]

    def __init__(self, *, dir: str, **common: Any) -> None:
        super().__init__(**common)
        self.dir = Path(dir)
        self.file = self.dir / self.file_name

    @abstractmethod
    def raw(self) -> list[Source]:
        """Where the data set's own files may lie on this machine."""

    def read(self) -> Arrays:
        sources = [*self.raw(), download(self.published, self.dir)]
        return prepared(self.file, num_classes=len(self.labels), sources=sources)

    def class_names(self) -> tuple[str, ...]:
        return self.labels

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(self.file)


class MNIST(TorchvisionData):
    """60,000 and 10,000 grey images of 28x28 pixels, 10 classes.

    LeCun et al. 1998, Gradient-based learning applied to document recognition.
    """

    published, file_name = "MNIST", "mnist.npz"
    labels = tuple("0123456789")

    def raw(self) -> list[Source]:
        return [idx_files(self.dir / self.published / "raw", "torchvision's raw files")]


class FashionMNIST(MNIST):
    """60,000 and 10,000 grey images of 28x28 pixels, 10 classes (Xiao et al. 2017, arXiv:1708.07747).

    `debian_dir` is where Debian's package dataset-fashion-mnist puts its files.
    """

    published, file_name = "FashionMNIST", "fashion_mnist.npz"
    labels = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

    def __init__(self, *, debian_dir: str = "/usr/share/datasets/fashion-mnist", **common: Any) -> None:
        super().__init__(**common)
        self.debian_dir = Path(debian_dir)

    def raw(self) -> list[Source]:
        return [*super().raw(), idx_files(self.debian_dir, "Debian's dataset-fashion-mnist")]


class CIFAR10(TorchvisionData):
    """50,000 and 10,000 color images of 32x32 pixels, 10 classes.

    Krizhevsky 2009, Learning multiple layers of features from tiny images.
    """

    published, file_name, unpacked = "CIFAR10", "cifar10.npz", "cifar-10-batches-py"
    labels = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def raw(self) -> list[Source]:
        return [torchvision_files(self.published, self.dir, self.unpacked)]


class CIFAR100(CIFAR10):
    """50,000 and 10,000 color images of 32x32 pixels, with the 100 fine labels; of the paper of CIFAR-10."""

    published, file_name, unpacked = "CIFAR100", "cifar100.npz", "cifar-100-python"
    labels = tuple(CIFAR100_NAMES.split())
