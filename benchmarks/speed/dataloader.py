"""The script that tutorials teach: each sample becomes a PIL image, a tensor and a normalized tensor, in workers."""

import time

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from .result import write_result
from .task import Task, read_task, wait_for
from .workloads import EVAL_BATCH_SIZE, LEARNING_RATE

NUM_WORKERS = 2  # as in PyTorch's CIFAR-10 tutorial; here they live on from epoch to epoch


class Samples(Dataset[tuple[Tensor, int]]):
    """What torchvision's MNIST and CIFAR10 do in `__getitem__`."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels.tolist()
        num_channels = images.shape[3] if images.ndim == 4 else 1
        steps = [transforms.ToTensor(), transforms.Normalize([0.0] * num_channels, [1.0] * num_channels)]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]  # pyright: ignore[reportReturnType]


def main(task: Task) -> None:
    net = task.net()
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)

    def loader(rows: np.ndarray, batch_size: int, shuffle: bool) -> DataLoader[tuple[Tensor, int]]:
        samples = Samples(task.x_train[rows], task.y_train[rows])
        pin = task.device.type == "cuda"
        return DataLoader(
            samples, batch_size, shuffle=shuffle, num_workers=NUM_WORKERS, persistent_workers=True, pin_memory=pin
        )

    train_loader = loader(task.train_indices, task.workload.batch_size, shuffle=True)
    val_loader = loader(task.val_indices, EVAL_BATCH_SIZE, shuffle=False)
    seconds, train_loss, val_acc = [], 0.0, 0.0
    for _ in range(task.epochs):
        wait_for(task.device)
        start = time.perf_counter()
        train_loss = train(net, optimizer, train_loader, task.device)
        val_acc = evaluate(net, val_loader, task.device)
        seconds.append(time.perf_counter() - start)
    write_result(epoch_seconds=seconds, num_train=len(task.train_indices), train_loss=train_loss, val_acc=val_acc)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader, device: torch.device) -> float:
    net.train()
    loss_sum = num_correct = num_images = 0
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        optimizer.zero_grad()
        logits = net(images)
        loss = cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(labels)
        num_correct += (logits.argmax(dim=1) == labels).sum().item()
        num_images += len(labels)
    return loss_sum / num_images


@torch.no_grad()
def evaluate(net: nn.Module, loader: DataLoader, device: torch.device) -> float:
    net.eval()
    loss_sum = num_correct = num_images = 0
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        logits = net(images)
        loss_sum += cross_entropy(logits, labels).item() * len(labels)
        num_correct += (logits.argmax(dim=1) == labels).sum().item()
        num_images += len(labels)
    return num_correct / num_images


if __name__ == "__main__":
    main(read_task())
