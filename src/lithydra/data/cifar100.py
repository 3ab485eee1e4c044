"""CIFAR-100 with its fine labels (Krizhevsky 2009, Learning multiple layers of features from tiny images)."""

from pathlib import Path
from typing import Any

from lithydra.data.base import ImageDataModule
from lithydra.data.prepare import Arrays, fingerprint, prepared
from lithydra.data.sources import download, torchvision_files

CLASS_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree
wolf woman worm
"""


class CIFAR100(ImageDataModule):
    """50,000 and 10,000 color images of 32x32 pixels, 100 classes."""

    def __init__(self, *, dir: str, **common: Any) -> None:
        super().__init__(**common)
        self.dir = Path(dir)
        self.file = self.dir / "cifar100.npz"

    def read(self) -> Arrays:
        raw = torchvision_files("CIFAR100", self.dir, "cifar-100-python")
        return prepared(self.file, num_classes=100, sources=[raw, download("CIFAR100", self.dir)])

    def class_names(self) -> tuple[str, ...]:
        return tuple(CLASS_NAMES.split())

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(self.file)
