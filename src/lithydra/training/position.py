"""Going on with a run exactly where it stopped.

Lightning saves where its loops stand by calls of `training_step`. These hold several optimizer steps, and their number
may change with the machine; so a checkpoint also says where training stands in epochs and batches, and Lightning's
loops are set from that when it is loaded.
"""

from typing import Any

import lightning as L
import torch


def progress(trainer: L.Trainer) -> dict[str, Any]:
    """Where training stands: finished epochs, batches trained of the one at hand, optimizer steps."""
    order = trainer.train_dataloader.sampler  # pyright: ignore[reportOptionalMemberAccess]
    epochs: int = trainer.fit_loop.epoch_progress.current.processed  # pyright: ignore[reportAttributeAccessIssue]
    return {
        "epochs": epochs,
        "batches": order.position if order.epoch == epochs else 0,
        "steps": trainer.global_step,
    }


def set_loops(checkpoint: dict[str, Any], progress: dict[str, Any], trainer: L.Trainer) -> None:
    """Rewrite the loops' state in `checkpoint`: `progress` as Lightning counts it, with this trainer's chunks."""
    epochs, batches = progress["epochs"], progress["batches"]
    chunks = batches // trainer.datamodule.steps_per_execution  # pyright: ignore[reportAttributeAccessIssue]
    loop = trainer.fit_loop.state_dict()
    started = epochs + 1 if batches else epochs
    for count in ("total", "current"):
        loop["epoch_progress"][count] = {
            "ready": started,
            "started": started,
            "processed": epochs,
            "completed": epochs,
        }
        done = dict.fromkeys(("ready", "started", "processed", "completed"), chunks)
        loop["epoch_loop.batch_progress"][count] = done
        steps = {"ready": progress["steps"], "completed": progress["steps"]}
        loop["epoch_loop.manual_optimization.optim_step_progress"][count] = steps
    loop["epoch_loop.batch_progress"]["is_last_batch"] = False
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = progress["steps"]
    loop["state_dict"]["combined_loader"] = [{"epoch": epochs, "position": batches}]
    checkpoint["loops"] = {"fit_loop": loop}


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
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
