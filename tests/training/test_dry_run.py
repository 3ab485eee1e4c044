"""What does not fit together is refused before a run directory is made, and a bug of one's own shows where it is."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import SMALL, Compose, RunTrain
from lithydra.errors import ConfigError
from lithydra.training import build
from lithydra.training.dry_run import try_out
from lithydra.training.engine import GradientClassifier


class Wrong(nn.Module):
    """A linear net with something wrong."""

    def __init__(self, *, in_shape: tuple[int, int, int], num_classes: int, wrong: str, hidden: list[int]) -> None:
        super().__init__()
        self.head = nn.Linear(in_shape[0] * in_shape[1] * in_shape[2], num_classes + (wrong == "outputs"))
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor] | None:
        logits = self.head(x.flatten(1))
        if self.wrong == "tuple" or (self.wrong == "tuple in evaluation" and not self.training):
            return logits, logits
        if self.wrong == "bug":
            return logits @ logits  # sizes that do not fit
        if self.wrong == "typo":
            return logits.sofmax(1)  # pyright: ignore
        return {"images": logits[:-1], "one": logits[:, 0], "nothing": None}.get(self.wrong, logits)


def net(wrong: str) -> tuple[str, ...]:
    return "model=linear", "model._target_=test_dry_run.Wrong", f"+model.wrong={wrong}"


WRONG = {
    "outputs": r"\(16, 11\)",
    "tuple": "a tuple",
    "tuple in evaluation": "a tuple",
    "images": r"\(15, 10\)",
    "one": r"\(16,\)",
    "nothing": "a NoneType",
}


@pytest.mark.parametrize(("wrong", "given"), WRONG.items(), ids=WRONG.keys())
def test_a_net_with_other_outputs_is_refused_with_both_shapes(
    run_train: RunTrain, tmp_path: Path, wrong: str, given: str
) -> None:
    message = rf"model: Wrong gives {given} for 16 images and 10 classes; with this loss it must give \(16, 10\)$"
    with pytest.raises(ConfigError, match=message):
        run_train(*SMALL, *net(wrong))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "probability_l1"])
def test_a_loss_of_a_single_logit_needs_one(run_train: RunTrain, loss: str) -> None:
    """The net is told of one output, and has one more."""
    message = r"model: Wrong gives \(16, 2\) for 16 images and 2 classes; with this loss it must give \(16, 1\)$"
    with pytest.raises(ConfigError, match=message):
        run_train(*SMALL, "data.classes=[2,6]", "data.limit=200", f"loss={loss}", *net("outputs"))


def test_sizes_that_do_not_fit_are_told_with_their_place(run_train: RunTrain) -> None:
    message = r"images \(16, 1, 8, 8\), 10 classes: .*mat1 and mat2 .* \(\S+test_dry_run\.py, line \d+: return logits @"
    with pytest.raises(ConfigError, match=message):
        run_train(*SMALL, *net("bug"))


def test_a_bug_in_a_net_keeps_its_traceback(run_train: RunTrain) -> None:
    with pytest.raises(AttributeError, match="sofmax"):
        run_train(*SMALL, *net("typo"))


@pytest.mark.parametrize("settings", [(), ("optimizer=lbfgs",), ("augmentation=mixup", "model.batch_norm=true")])
def test_trying_out_changes_nothing(compose: Compose, settings: tuple[str, ...]) -> None:
    config = compose(*SMALL, *settings)
    data = build.data(config)
    module = build.classifier(config, data)
    assert isinstance(module, GradientClassifier)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    try_out(config, data, module, build.place(config))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


# Settings by which one process has two batches of the split, and each of two has one.
TWO_BATCHES = {
    "val": ("data.num_folds=5", "data.limit=200", "data.eval_batch_size=20"),
    "test": ("data.eval_batch_size=200",),
}


@pytest.mark.parametrize("split", TWO_BATCHES)
def test_a_part_of_the_batches_of_a_process_that_comes_to_none_is_refused(compose: Compose, split: str) -> None:
    config = compose(*TWO_BATCHES[split], f"trainer.limit_{split}_batches=0.5")
    data = build.data(config)
    try_out(config, data, build.classifier(config, data), build.place(config))
    message = (
        rf"trainer\.limit_{split}_batches=0\.5: less than one of 1 batches in each of 2 processes; a smaller data\."
    )
    with pytest.raises(ConfigError, match=message):
        try_out(config, data, build.classifier(config, data), build.place(compose("accelerator=ddp_cpu")))


def test_a_budget_in_seconds_becomes_a_number_of_steps(run_train: RunTrain, caplog: pytest.LogCaptureFixture) -> None:
    run = run_train(*SMALL, "trainer.max_seconds=0.2", "scheduler=cosine", "trainer.accumulate_grad_batches=2")
    trainer, last = run.read_config()["trainer"], run.read_metrics()[-1]
    assert trainer["max_seconds"] is None and int(last["step"]) == trainer["max_steps"] > 9
    assert trainer["max_epochs"] == int(last["epoch"]) == -(-trainer["max_steps"] // 9)
    assert f"steps fit into 0.2 seconds: training {trainer['max_steps']}" in caplog.text
    assert float(last["lr"]) < 1e-6  # the schedule was laid out over all of them


def test_less_than_a_step_is_refused(run_train: RunTrain) -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.max_seconds=1e-06: a step alone takes "):
        run_train(*SMALL, "trainer.max_seconds=1e-6")
