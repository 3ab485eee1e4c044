"""Optimizers that torch does not have, or has in a form that does not suit."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, optim
from torch.optim import Optimizer
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of x, x³ and x⁵: singular values go to between 0.7 and 1.2 in five steps
SMALLEST_NORM = 1e-7
ADAMW_RMS = 0.2  # what AdamW's updates usually have, in units of lr


class Muon(Optimizer):
    """Orthogonalized momentum for weights of two and more dimensions, AdamW for all others.

    Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024. A convolution's weight (out, in, height,
    width) is a matrix (out, in · height · width). Updates have the root mean square of AdamW's (Liu et al., "Muon is
    scalable for LLM training", 2025, section 2.2), so that one lr and one weight decay suit both.

    Args:
        params: Parameters, or groups of them. The net's head goes to AdamW by a group with `matrices` false.
        momentum: Of matrices, 0 to below 1.
        nesterov: Look ahead by the momentum.
        ns_steps: Newton-Schulz iterations.
        betas: Of AdamW, 0 to below 1.
        eps: Of AdamW.
        weight_decay: Per unit of lr, decoupled from the gradient.
        matrices: Whether weights of two and more dimensions are orthogonalized.
        fused: Of AdamW.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        matrices: bool = True,
        fused: bool | None = None,
    ) -> None:
        muon = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "matrices": matrices}
        adam = {"betas": betas, "eps": eps, "fused": fused}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **muon, **adam})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; returns what `closure`, which evaluates the loss anew, gives."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            matrices = [p for p in trained if group["matrices"] and p.ndim > 1]
            for p in matrices:
                self._step_matrix(p, p.grad, group)
            if len(matrices) < len(trained):
                self._step_others([p for p in trained if p.ndim < 2 or not group["matrices"]], group)
        return loss

    def _step_matrix(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        update = self._direction(weight, gradient, group)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-group["lr"] * ADAMW_RMS * math.sqrt(max(len(weight), weight[0].numel())))

    def _direction(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """The momentum's, of the shape of `weight`, with all singular values near 1."""
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        matrix = (gradient.lerp(mean, group["momentum"]) if group["nesterov"] else mean).flatten(1)
        return orthogonalized(matrix, group["ns_steps"]).view_as(weight)

    def _step_others(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for p in weights:
            if not self.state[p]:  # as torch's: without `fused` the step is counted on the CPU
                step = torch.zeros((), dtype=torch.float32, device=p.device if group["fused"] else "cpu")
                self.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        states, (beta1, beta2) = [self.state[p] for p in weights], group["betas"]
        adamw(
            weights,
            [p.grad for p in weights if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            maximize=False,
            **{key: group[key] for key in ("lr", "weight_decay", "eps")},
        )


class MuonSGD(Muon):
    """Orthogonalized momentum for weights that keep their norm, SGD with Nesterov's momentum for all others.

    For nets whose convolutions are followed by a normalization, which makes their norm meaningless: before each step a
    weight (out, …) is scaled to the norm √out, so that lr is how far it turns. Jordan, airbench94_muon, 2024.

    Args:
        params: As of `Muon`; the net's head goes to SGD.
        momentum: Of matrices, 0 to below 1.
        nesterov: Of matrices: look ahead by the momentum.
        ns_steps: Newton-Schulz iterations.
        sgd_momentum: Of SGD, 0 to below 1.
        weight_decay: Of SGD, added to the gradient.
        matrices: Whether weights of two and more dimensions are orthogonalized.
        fused: Of SGD.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.24,
        momentum: float = 0.6,
        nesterov: bool = True,
        ns_steps: int = 3,
        sgd_momentum: float = 0.85,
        weight_decay: float = 0.0,
        matrices: bool = True,
        fused: bool | None = None,
    ) -> None:
        muon = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "matrices": matrices}
        others = {"sgd_momentum": sgd_momentum, "weight_decay": weight_decay, "fused": fused}
        Optimizer.__init__(self, params, {"lr": lr, **muon, **others})

    def _step_matrix(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        update = self._direction(weight, gradient, group)
        weight.mul_(math.sqrt(len(weight)) / weight.norm().clamp(min=SMALLEST_NORM))
        weight.add_(update, alpha=-group["lr"])

    def _step_others(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for p in weights:
            if not self.state[p]:
                self.state[p] = {"momentum_buffer": torch.zeros_like(p)}
        sgd(
            weights,
            [p.grad for p in weights if p.grad is not None],
            [self.state[p]["momentum_buffer"] for p in weights],
            fused=group["fused"],
            momentum=group["sgd_momentum"],
            dampening=0.0,
            nesterov=True,
            maximize=False,
            **{key: group[key] for key in ("lr", "weight_decay")},
        )


class NAdam(optim.NAdam):
    """torch's, which goes on exactly from a saved state.

    Dozat, "Incorporating Nesterov momentum into Adam", 2016. torch would round the product of all momenta to the type
    of the weights.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        saved = [state_dict["state"].get(i) for group in state_dict["param_groups"] for i in group["params"]]
        for p, state in zip((p for group in self.param_groups for p in group["params"]), saved, strict=True):
            if state:
                self.state[p]["mu_product"] = state["mu_product"].clone()


def orthogonalized(matrix: Tensor, steps: int) -> Tensor:
    """`matrix` (rows, columns) with all singular values near 1, by a Newton-Schulz iteration of fifth order.

    Computed in bfloat16 on Nvidia's GPUs, for which it was made, and in float32 elsewhere.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix.mT if len(matrix) > matrix.shape[1] else matrix  # the smaller of the two products
    with torch.autocast(matrix.device.type, enabled=False):  # the engine steps inside of it
        x = wide.float()
        x = (x / x.norm().clamp(min=SMALLEST_NORM)).to(torch.bfloat16 if x.is_cuda else torch.float32)
        for _ in range(steps):
            products = x @ x.mT
            x = torch.addmm(x, torch.addmm(products, products, products, beta=b, alpha=c), x, beta=a)
    return x.mT if wide is not matrix else x
