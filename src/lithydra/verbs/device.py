"""What a verb computes on."""

import torch
from omegaconf import DictConfig

from lithydra.training import build


def device(config: DictConfig) -> torch.device:
    """The device that `accelerator=` names; torch's threads and precision of matrix products are set as it says."""
    torch.set_float32_matmul_precision(config.accelerator.matmul_precision)
    if config.accelerator.threads != "auto":
        torch.set_num_threads(config.accelerator.threads)
    return build.device(config)
