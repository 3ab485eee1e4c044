"""Measure what each augmentation costs, in images a second: python benchmarks/augmentations.py.

A batch is 128 random uint8 images of CIFAR-10's shape; making them float, which every augmentation needs, counts too.
The value is that of the median batch.
"""

import argparse
import inspect
import statistics
import time
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from lithydra.augmentations.chain import Chain
from lithydra.data.memory import keep_freed_memory
from lithydra.run.provenance import git_state, hardware
from lithydra.training.instantiate import located, make

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "augmentations.md"
BATCH, NUM_CLASSES = (128, 3, 32, 32), 10
WARM_UP = 5  # batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=200, help="of each augmentation; 0 measures nothing")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--docs", action="store_true", help="write docs/augmentations.md")
    options = parser.parse_args()
    keep_freed_memory()  # as a run does; without, the same flip takes 0.2 ms or 1.6, as the blocks happen to lie
    augmentations = shipped()
    speeds = {name: images_per_second(augmentations, name, options) for name in augmentations if options.batches > 0}
    for name, speed in speeds.items():
        print(f"{name:18}{speed:>12,.0f} images/s")
    if options.docs:
        PAGE.write_text(markdown(augmentations, speeds, options.device))


def shipped() -> dict[str, DictConfig]:
    """What the files of conf/augmentation hold, by name."""
    files = sorted((ROOT / "conf" / "augmentation").glob("*.yaml"))
    return {str(name): node for file in files for name, node in DictConfig(OmegaConf.load(file)).items()}


def images_per_second(augmentations: dict[str, DictConfig], name: str, options: argparse.Namespace) -> float:
    config = DictConfig({"seed": 0, "augmentation": augmentations})
    augment = Chain([make(config, f"augmentation.{name}", image_shape=BATCH[1:], num_classes=NUM_CLASSES)])
    images = torch.randint(256, BATCH, dtype=torch.uint8, device=options.device)
    labels = torch.randint(NUM_CLASSES, BATCH[:1], device=options.device)
    augment.set_position(0, torch.arange(len(images), device=options.device))
    seconds = [timed(augment, images, labels) for _ in range(WARM_UP + options.batches)]
    return len(images) / statistics.median(seconds[WARM_UP:])


def timed(augment: Chain, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Seconds for a batch."""
    start = time.perf_counter()
    augment(images, labels)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def what(name: str, target: str) -> str:
    """The first line of the docstring."""
    return (inspect.getdoc(located(f"augmentation.{name}", target)) or "").partition("\n")[0]


def settings(node: DictConfig) -> str:
    """As the file has them."""
    written = OmegaConf.to_container(node, resolve=False)
    assert isinstance(written, dict)
    return " ".join(f"`{key}={value}`".replace(", ", ",") for key, value in written.items() if key != "_target_")


def where(device: str) -> str:
    machine = hardware()
    used = ", ".join(machine["gpus"]) if device == "cuda" else f"{machine['cpu']}, {machine['torch_threads']} threads"
    return f"- {used}; {machine['system']}; torch {torch.__version__}\n- commit {git_state(ROOT)['commit']}"


def markdown(augmentations: dict[str, DictConfig], speeds: dict[str, float], device: str) -> str:
    """The page docs/augmentations.md."""
    rows = [
        f"| {name} | {what(name, node._target_)} | {settings(node)} | {f'{speeds[name]:,.0f}' if speeds else ''} |"
        for name, node in augmentations.items()
    ]
    heading = "images/s" if speeds else "images/s: not measured yet"
    parts = [
        "# Augmentations",
        "`augmentation=NAME`, or several in their order, `augmentation=[flip,shift,cutout]`; a setting is\n"
        "`augmentation.NAME.SETTING=VALUE`. All work on whole batches on the device that trains, and each image has\n"
        "random numbers of its own; `mixup` and `cutmix` draw one weight or rectangle a batch.",
        "Written by `python benchmarks/augmentations.py --docs`: batches of 128 random images, 3x32x32, made float\n"
        "from uint8, one augmentation at a time.",
        where(device) if speeds else "",
        "\n".join([f"| augmentation | what it does | settings | {heading} |", "| --- | --- | --- | ---: |", *rows]),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


if __name__ == "__main__":
    main()
