"""The pictures of a run: in plots/, the page run.html, and the same in TensorBoard.

What costs time is done once, when the run has its results; nothing here runs in a training step.
"""

import itertools
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from lithydra.data.splits import Batch, Split
from lithydra.errors import LithydraError, RunInterrupted
from lithydra.run.directory import RunDir
from lithydra.training.checkpoint import run_dir
from lithydra.training.classifier import Classifier
from lithydra.training.collectives import gathered

log = logging.getLogger(__name__)

NUM_MISTAKES = 24
SAMPLES_PER_CLASS = 10
MAX_CLASSES = 20  # of the sample grid
MAX_FILTERS = 64
BINS = 15  # of the reliability diagram
LAYOUT = {  # charts by title, with patterns of tags
    "train and validation": {
        "loss": ["Multiline", ["^train/loss$", "^val/loss$"]],
        "accuracy": ["Multiline", ["^train/acc$", "^val/acc$"]],
    },
    "optimization": {
        "learning rate": ["Multiline", ["^train/lr$"]],
        "gradient norm": ["Multiline", ["^train/gradient_norm$"]],
        "images per second": ["Multiline", ["^train/images_per_second$"]],
    },
}


@dataclass
class TestResults:
    """What the pictures need of the test pass.

    Attributes:
        counts: (true class, predicted class) int64.
        reliability: (bins, 3): by the probability of the predicted class, how many images there are, the sum of their
            probabilities, and how many are right.
        mistakes: Images (C, H, W), predicted class, its probability and the true class; the surest first.
    """

    __test__ = False  # not a test class

    counts: Tensor
    reliability: Tensor = field(default_factory=lambda: torch.zeros(BINS, 3))
    mistakes: list[tuple[Tensor, int, float, int]] = field(default_factory=list)

    def add(self, images: Tensor, probabilities: Tensor, labels: Tensor) -> None:
        """One batch: (B, C, H, W), (B, classes), (B,)."""
        surest, predicted = probabilities.max(dim=1)
        num_classes = len(self.counts)
        pairs = labels * num_classes + predicted
        self.counts += torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
        bins = (surest * BINS).long().clamp(max=BINS - 1)
        values = torch.stack([torch.ones_like(surest), surest, (predicted == labels).float()], dim=1)
        self.reliability = self.reliability.to(surest.device).index_add(0, bins, values)
        order = torch.where(predicted == labels, -1.0, surest).topk(min(NUM_MISTAKES, len(labels)))
        for sure, i in zip(order.values.tolist(), order.indices.tolist(), strict=True):
            if sure >= 0:
                image = images[i].cpu().clone()  # a view would keep the whole batch
                self.mistakes.append((image, int(predicted[i]), sure, int(labels[i])))
        self.mistakes = sorted(self.mistakes, key=lambda mistake: -mistake[2])[:NUM_MISTAKES]


class LookInside(L.Callback):
    """Texts in TensorBoard when training starts, pictures and run.html when the run has its results."""

    def __init__(self) -> None:
        self.results: TestResults | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        run = run_dir(trainer)
        for writer in writers(trainer):
            writer.add_custom_scalars(LAYOUT)
            writer.add_text("command", f"```\n{run.read_command()}```")
            writer.add_text("config", f"```yaml\n{run.config.read_text()}```")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(pl_module, Classifier) or not pl_module.method.classifies:
            return
        num_classes = pl_module.num_classes
        self.results = TestResults(torch.zeros(num_classes, num_classes, dtype=torch.int64, device=pl_module.device))

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.results is None:
            return
        assert isinstance(pl_module, Classifier)
        images, labels = batch
        self.results.add(images, pl_module.probabilities(outputs), labels.to(outputs.device))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size == 1 or self.results is None:  # else each process has its own share
            return
        for name in ("counts", "reliability"):
            share = getattr(self.results, name).to(trainer.strategy.root_device)
            setattr(self.results, name, trainer.strategy.reduce(share, reduce_op="sum"))
        shares = gathered(self.results.mistakes, trainer)
        self.results.mistakes = sorted(itertools.chain(*shares), key=lambda mistake: -mistake[2])[:NUM_MISTAKES]

    def on_run_end(self, trainer: L.Trainer, module: L.LightningModule, data: Any) -> None:
        """Draw everything. A picture that fails costs the run nothing but the picture."""
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        from lithydra.run import page, plots

        run, open_writers = run_dir(trainer), list(writers(trainer))
        try:
            for name, drawn in self._pictures(run, module, data):
                image = plots.save(drawn, run.plots / f"{name}.png")
                for writer in open_writers:
                    writer.add_image(f"view/{name}", image, trainer.global_step, dataformats="HWC")
            for writer in open_writers:
                if isinstance(module, Classifier):
                    add_graph(writer, module, data.image_shape)
                writer.flush()
            page.write(run)
        except RunInterrupted:
            raise
        except Exception as error:
            known = isinstance(error, (LithydraError, OSError))
            log.warning("Looking inside failed: %s: %s", type(error).__name__, error, exc_info=not known)

    def _pictures(self, run: RunDir, module: L.LightningModule, data: Any) -> Iterator[tuple[str, Any]]:
        from lithydra.run import class_scores, plots

        if rows := run.read_metrics():
            yield "curves", plots.curves({run.path.name: rows}, run.read_status().get("best_epoch"))
        if not isinstance(module, Classifier):
            return
        names = data.names
        if self.results is not None:
            counts = self.results.counts.cpu().numpy()
            accuracy = counts.trace() / max(1, counts.sum())
            yield "confusion", plots.confusion(counts, names, f"Test images: {accuracy:.2%} of {counts.sum():,} right")
            class_scores.write(run, counts, names)
            yield "reliability", plots.reliability(self.results.reliability.cpu().numpy())
            items = [plots.Guess(as_image(x), names[p], sure, names[t]) for x, p, sure, t in self.results.mistakes]
            if items:
                yield "mistakes", plots.guesses(items, "Test images: the surest mistakes")
        assert data.train is not None
        yield "samples", plots.class_samples(sample_blocks(data.train, module), names[:MAX_CLASSES])
        if (weights := first_layer(module.evaluated_net, data.image_shape)) is not None:
            shown = f"{len(weights)}" if len(weights) <= MAX_FILTERS else f"{MAX_FILTERS} of {len(weights)}"
            title = f"{shown} filters of the first layer"
            yield "filters", plots.filters(weights[:MAX_FILTERS].numpy(), title)


def writers(trainer: L.Trainer) -> Iterator[SummaryWriter]:
    if trainer.is_global_zero:
        yield from (logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger))


def as_image(pixels: Tensor) -> np.ndarray:
    """(C, H, W), uint8 or float in [0, 1], to (H, W, C) uint8."""
    if pixels.is_floating_point():
        pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(1, 2, 0).cpu().numpy()


def sample_blocks(split: Split, module: Classifier) -> dict[str, np.ndarray]:
    """The first images of each class, (classes, images, H, W, C) uint8, as they are and as training sees them."""
    positions = first_of_each_class(split, min(module.num_classes, MAX_CLASSES), SAMPLES_PER_CLASS)
    images, labels = next(split.batches([positions]))
    shape = (-1, SAMPLES_PER_CLASS)
    blocks = {"training images": images}
    augment = module.method.augment
    if augment.parts:
        with torch.random.fork_rng():
            augment.set_position(0, positions)
            blocks["augmented"] = augment(images, labels)[0]
    return {
        title: np.stack([as_image(image) for image in batch]).reshape(*shape, *as_image(batch[0]).shape)
        for title, batch in blocks.items()
    }


def first_of_each_class(split: Split, num_classes: int, count: int) -> Tensor:
    """Positions in the split of the first `count` images of each class; a class with fewer repeats them."""
    labels = split.own_labels
    rows = [(labels == label).nonzero().squeeze(1)[:count] for label in range(num_classes)]
    return torch.cat([row.repeat(-(-count // max(1, len(row))))[:count] for row in rows])


def first_layer(net: nn.Module, image_shape: tuple[int, int, int]) -> Tensor | None:
    """The weights of the first layer as images (N, H, W, C) float; None where they are none."""
    channels, height, width = image_shape
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.detach().float().cpu()
            weight = weight if weight.shape[1] in (1, 3) else weight[:, :1]
            return weight.permute(0, 2, 3, 1)
        if isinstance(layer, nn.Linear):
            fits = layer.in_features == channels * height * width
            weight = layer.weight.detach().float().cpu()
            return weight.view(-1, channels, height, width).permute(0, 2, 3, 1) if fits else None
    return None


def add_graph(writer: SummaryWriter, module: Classifier, image_shape: tuple[int, int, int]) -> None:
    """The net as TensorBoard's graph."""
    if module.net._compiled_call_impl is not None:
        return  # a compiled net cannot be traced
    module.net.eval()
    example = torch.zeros(1, *image_shape, device=module.device, dtype=next(module.parameters(), torch.zeros(())).dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: a shape in Python becomes a constant, as it should
        writer.add_graph(module.net, example)
