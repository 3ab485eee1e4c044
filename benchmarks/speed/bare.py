"""The bare PyTorch loop: images stay uint8 in memory, on the device that trains; nothing waits within an epoch."""

import time

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .result import write_result
from .task import Task, read_task, wait_for
from .workloads import EVAL_BATCH_SIZE, LEARNING_RATE


class Images:
    """Normalized batches of uint8 images (N, H, W) or (N, H, W, C) and their labels, by row."""

    def __init__(self, images: Tensor, labels: Tensor, device: torch.device, channels_last: bool) -> None:
        images = images.reshape(*images.shape[:3], -1)
        if not channels_last:
            images = images.permute(0, 3, 1, 2).contiguous()
        self.images, self.labels = images.to(device), labels.to(device)
        self.channels_last = channels_last

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self.images.index_select(0, rows)
        if self.channels_last:
            pixels = pixels.permute(0, 3, 1, 2)
        return pixels.float().mul_(1 / 255), self.labels[rows]


class Sums:
    """Loss and number of right answers, summed on the device."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), device=device)
        self.num_correct = torch.zeros((), dtype=torch.int64, device=device)
        self.num_images = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.loss += loss * len(labels)
        self.num_correct += (logits.argmax(dim=1) == labels).sum()
        self.num_images += len(labels)

    def means(self) -> tuple[float, float]:
        """Loss and accuracy."""
        return self.loss.item() / self.num_images, self.num_correct.item() / self.num_images


def train(net: nn.Module, optimizer: torch.optim.Optimizer, images: Images, rows: Tensor, batch_size: int) -> Sums:
    net.train()
    parameters = list(net.parameters())
    sums = Sums(rows.device)
    order = rows[torch.randperm(len(rows)).to(rows.device)]
    for batch in order.split(batch_size):
        pixels, labels = images.batch(batch)
        logits = net(pixels)
        loss = cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        for parameter in parameters:  # optimizer.zero_grad() does the same, and more slowly
            parameter.grad = None
        sums.add(loss.detach(), logits.detach(), labels)
    return sums


@torch.inference_mode()
def evaluate(net: nn.Module, images: Images, rows: Tensor) -> Sums:
    net.eval()
    sums = Sums(rows.device)
    for batch in rows.split(EVAL_BATCH_SIZE):
        pixels, labels = images.batch(batch)
        logits = net(pixels)
        sums.add(cross_entropy(logits, labels), logits, labels)
    return sums


def main(task: Task) -> None:
    net = task.net()
    channels_last = getattr(net, "channels_last", False)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
    images, test_images = (
        Images(torch.from_numpy(x), torch.from_numpy(y), task.device, channels_last)
        for x, y in ((task.x_train, task.y_train), (task.x_test, task.y_test))
    )
    train_rows, val_rows = (torch.from_numpy(r).to(task.device) for r in (task.train_indices, task.val_indices))
    seconds, train_loss, val_acc = [], 0.0, 0.0
    for _ in range(task.epochs):
        wait_for(task.device)
        start = time.perf_counter()
        train_loss = train(net, optimizer, images, train_rows, task.workload.batch_size).means()[0]
        val_acc = evaluate(net, images, val_rows).means()[1]
        wait_for(task.device)
        seconds.append(time.perf_counter() - start)
    test_acc = evaluate(net, test_images, torch.arange(len(task.y_test), device=task.device)).means()[1]
    write_result(
        epoch_seconds=seconds,
        num_train=len(train_rows),
        train_loss=train_loss,
        val_acc=val_acc,
        test_acc=test_acc,
        load_seconds=task.load_seconds,
    )


if __name__ == "__main__":
    main(read_task())
