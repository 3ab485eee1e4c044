"""The LightningModule for nets that learn without a gradient, such as the nearest class mean."""

from torch.optim import Optimizer

from lithydra.data.loaders import Chunk
from lithydra.training.classifier import Classifier


class StatisticsClassifier(Classifier):
    """A classifier whose net learns from the data's statistics: one pass of `net.fit_batch`, no gradient."""

    def configure_optimizers(self) -> list[Optimizer]:
        return []

    def training_step(self, chunk: Chunk, batch_idx: int) -> None:
        for batch in chunk.batches():
            images, labels = batch.images.to(self.device), batch.labels.to(self.device)
            self.net.fit_batch(self.normalization(images), labels)  # pyright: ignore[reportCallIssue]

    def on_train_epoch_end(self) -> None:
        """The training metrics need the finished statistics, so they take a second pass."""
        order = self.trainer.datamodule.train_dataloader()  # pyright: ignore
        for batch in (b for chunk in order for b in chunk.batches()):
            images, labels = batch.images.to(self.device), batch.labels.to(self.device)
            logits = self(images)
            self.count([self.loss(logits, labels)], [logits], [labels])
        self._report_training()
