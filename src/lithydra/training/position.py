"""Where training stands: what a checkpoint needs to resume exactly there.

Lightning saves the position of its loops by calls of `training_step`. These hold several optimizer steps, and their
number may change with the machine; so a checkpoint also has the position in epochs and batches, and Lightning's loops
are set from that when it is loaded.
"""

from typing import Any

import lightning as L
import torch

from lithydra.data.loaders import TrainingOrder
from lithydra.training.lightning_inside import finished_epochs


def progress(trainer: L.Trainer) -> dict[str, Any]:
    """Where training stands: finished epochs, batches trained of the one at hand, optimizer steps."""
    order = trainer.train_dataloader.sampler  # pyright: ignore[reportOptionalMemberAccess]
    epochs = finished_epochs(trainer)
    return {
        "epochs": epochs,
        "batches": order.position if order.epoch == epochs else 0,
        "steps": trainer.global_step,
    }


def within_epoch(trainer: L.Trainer) -> bool:
    """Whether a run that is saved here can go on here: batches are left, and they will be the same ones."""
    order = getattr(trainer.train_dataloader, "sampler", None)
    return isinstance(order, TrainingOrder) and order.position < order.num_batches


def is_repeatable(trainer: L.Trainer) -> bool:
    """Whether the batches of an epoch are in an order that is known; that of a person's own loader is not."""
    return isinstance(getattr(trainer.train_dataloader, "sampler", None), TrainingOrder)


def trained_batches(trainer: L.Trainer) -> int:
    """Of the epoch at hand."""
    order = getattr(trainer.train_dataloader, "sampler", None)
    return order.position if isinstance(order, TrainingOrder) else trainer.fit_loop.batch_idx + 1


def random_state() -> dict[str, Any]:
    """State of the generators that dropout and augmentation draw from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def take_random_state(saved: list[dict[str, Any]], rank: int) -> None:
    """Resume with this process's state, if it is among those saved by rank.

    Else it gets random numbers of its own, from the state that all processes have at the start; the first keeps that.
    With the same numbers in each, every share of a batch would have the same dropout masks.
    """
    if saved:
        set_random_state(saved[rank if rank < len(saved) else 0])
    if rank >= max(1, len(saved)):
        torch.manual_seed(int(torch.randint(2**63 - 1, (rank,))[-1]))


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:  # that of each GPU there was: here there may be fewer
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
