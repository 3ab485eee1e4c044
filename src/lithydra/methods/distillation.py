"""Learning from labels and from what a trained net says of the same images."""

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lithydra.errors import ConfigError
from lithydra.methods.base import Method, refuse_other_classes


class Distillation(Method):
    """(1 - alpha) · loss + alpha · T² · KL(teacher ‖ student), both softened by the temperature T.

    Hinton et al., "Distilling the knowledge in a neural network", 2015, section 2. The teacher sees the augmented
    images too, and is not saved with the student: to resume, its run must still be there, and unchanged.

    Args:
        teacher: Run directory, of the same classes and image shape.
        temperature: T, above 0.
        alpha: Weight of the teacher, 0 to 1.
    """

    teacher: Any
    teacher_digest: Tensor

    def __init__(self, teacher: str, temperature: float = 4.0, alpha: float = 0.9) -> None:
        super().__init__()
        self.teacher_run, self.temperature, self.alpha = teacher, temperature, alpha

    def setup(self) -> None:
        teacher = self.load(self.teacher_run)
        refuse_other_classes("method.teacher", self.teacher_run, teacher.record, self)
        self.__dict__["teacher"] = teacher  # no submodule: it is neither trained nor saved here
        digest = hashlib.sha256()
        for value in teacher.state_dict().values():
            digest.update(value.contiguous().numpy().tobytes())
        self.register_buffer("teacher_digest", torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8))

    def training_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(self.normalize(images))
        if self.teacher.device != images.device:
            self.teacher.to(images.device)
        with torch.no_grad():
            targets = self.teacher.probabilities(self.teacher(images) / self.temperature)
        student = torch.log(self.teacher.probabilities(logits / self.temperature).clamp(min=1e-12))
        soft = F.kl_div(student, targets, reduction="batchmean") * self.temperature**2
        self.log_mean("distillation_loss", soft)
        return (1 - self.alpha) * self.loss(logits, labels) + self.alpha * soft, logits

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        digest = state_dict.get(f"{prefix}teacher_digest")
        if digest is not None and not torch.equal(digest.cpu(), self.teacher_digest.cpu()):
            raise ConfigError(f"method.teacher={self.teacher_run}: its weights have changed since the run began")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
