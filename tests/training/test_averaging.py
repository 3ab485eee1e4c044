"""Averaged weights: what they are, where they are used, and test-time views beside them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lithydra
from conftest import SMALL, RunTrain, checkpoint, weights
from lithydra.errors import ConfigError
from lithydra.run.checkpoints import evaluated_state
from lithydra.training.averaging import EMA, SWA, Average, Lookahead, ScheduleFree
from lithydra.training.views import VIEWS


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def followed(average: Average, num_steps: int = 10) -> tuple[nn.Module, list[list[Tensor]]]:
    """The average of a net whose weights move at random; and those weights after each step."""
    trained = net()
    average.start(trained)
    history: list[list[Tensor]] = []
    for step in range(1, num_steps + 1):
        with torch.no_grad():
            for p in trained.parameters():
                p.add_(torch.randn_like(p))
        history.append([p.detach().clone() for p in trained.parameters()])
        average.update(trained, step, num_steps)
    return average.net, history


def test_ema_is_the_recursion() -> None:
    for warmup in (False, True):
        averaged, history = followed(EMA(decay=0.8, warmup=warmup))
        expected = [p.detach().clone() for p in net().parameters()]
        for step, values in enumerate(history, start=1):
            decay = min(0.8, (1 + step) / (10 + step)) if warmup else 0.8
            expected = [decay * old + (1 - decay) * new for old, new in zip(expected, values, strict=True)]
        for mine, its in zip(averaged.parameters(), expected, strict=True):
            torch.testing.assert_close(mine, its)


def test_swa_is_the_mean_of_the_last_part() -> None:
    averaged, history = followed(SWA(start=0.6))
    for mine, *its in zip(averaged.parameters(), *history[6:], strict=True):
        torch.testing.assert_close(mine, torch.stack(its).mean(0))


def test_swa_measures_batchnorm_anew() -> None:
    average = SWA(start=0.0, num_images=60)
    averaged, _ = followed(average)
    images = torch.randn(100, 3)
    average.eval()
    average.before_evaluation(net(), 10, 10, lambda: iter(images.split(20)))
    seen = [averaged[0](part) for part in images[:60].split(20)]  # pyright: ignore[reportIndexIssue]
    norm: Any = averaged[1]  # pyright: ignore[reportIndexIssue]
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean(0) for x in seen]).mean(0))
    assert norm.momentum == 0.1 and not norm.training


def test_lookahead_pulls_the_trained_weights_to_the_slow_ones() -> None:
    trained = net()
    average = Lookahead(steps=2, alpha=0.25)
    average.start(trained)
    start = trained[0].weight.detach().clone()  # pyright: ignore[reportIndexIssue]
    with torch.no_grad():
        trained[0].weight.add_(1.0)  # pyright: ignore[reportIndexIssue]
    average.update(trained, 1, 10)
    torch.testing.assert_close(average.net[0].weight, start)  # pyright: ignore[reportIndexIssue]
    average.update(trained, 2, 10)
    for one in (trained, average.net):
        torch.testing.assert_close(one[0].weight, start + 0.25)  # pyright: ignore[reportIndexIssue]


def test_schedule_free_sgd_is_the_papers() -> None:
    """Defazio et al., equations 1 to 3, on the function |w - 3|²."""
    trained, average = nn.Linear(4, 1, bias=False), ScheduleFree(momentum=0.75)
    average.start(trained)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    x = z = trained.weight.detach().clone()
    for step in range(1, 21):
        y = 0.25 * z + 0.75 * x
        torch.testing.assert_close(trained.weight.detach(), y)
        z = z - 0.1 * 2 * (y - 3)
        x = (1 - 1 / step) * x + z / step
        optimizer.zero_grad()
        (trained.weight - 3).square().sum().backward()
        optimizer.step()
        average.update(trained, step, 20)
    torch.testing.assert_close(average.net.weight, x)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["ema", "swa", "lookahead", "schedule_free"])
def test_averaged_weights_are_evaluated_saved_and_loaded(run_train: RunTrain, name: str) -> None:
    run = run_train(*SMALL, f"average={name}", "model.batch_norm=true", "data.val_fraction=0")
    metrics, images = run.read_status()["metrics"], torch.rand(4, 1, 8, 8)
    averaged, trained = (lithydra.load(run.path, "last", weights=kind) for kind in ("averaged", "trained"))
    assert not torch.equal(averaged(images), trained(images))
    state = checkpoint(run.last)["state_dict"]
    assert torch.equal(averaged.net.head.weight, state["average.net.head.weight"])  # pyright: ignore
    assert torch.equal(trained.net.head.weight, state["net.head.weight"])  # pyright: ignore
    again = run_train(*SMALL, f"average={name}", "model.batch_norm=true", "data.val_fraction=0")
    assert again.read_status()["metrics"] == metrics


def test_the_test_is_that_of_the_averaged_weights(run_train: RunTrain) -> None:
    slow = run_train(*SMALL, "average=ema", "average.decay=0.9999", "average.warmup=false")
    plain = run_train(*SMALL)
    assert torch.equal(weights(slow)["net.head.weight"], weights(plain)["net.head.weight"])
    assert slow.read_status()["metrics"]["test/loss"] > plain.read_status()["metrics"]["test/loss"] + 0.1


def test_weights_to_start_from_are_the_averaged_ones(run_train: RunTrain) -> None:
    source = run_train(*SMALL, "average=ema")
    state = evaluated_state(checkpoint(source.best)["state_dict"])
    run = run_train(*SMALL, f"init.from={source.path}", "lr=1e-12")
    torch.testing.assert_close(weights(run)["net.head.weight"], state["net.head.weight"])


def test_low_precision_cannot_hold_an_average(run_train: RunTrain) -> None:
    with pytest.raises(ConfigError, match=r"average: .* trainer\.precision=bf16-true"):
        run_train(*SMALL, "average=ema", "trainer.precision=bf16-true")


class Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * torch.arange(x.numel() // len(x)).view(x.shape[1:])).flatten(1).sum(1, keepdim=True)


def test_views_are_averaged() -> None:
    images, net = torch.rand(3, 1, 5, 6), Sum()
    torch.testing.assert_close(VIEWS["flip"](net, images), (net(images) + net(images.flip(3))) / 2)
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
    moved = [VIEWS["flip"](net, padded[:, :, i : i + 5, i : i + 6]) for i in (0, 2)]
    expected = 0.5 * VIEWS["flip"](net, images) + 0.25 * (moved[0] + moved[1])
    torch.testing.assert_close(VIEWS["flip_shift"](net, images), expected)


def test_views_are_those_of_the_run_unless_others_are_asked_for(run_train: RunTrain) -> None:
    run = run_train(*SMALL, "tta=flip")
    images = torch.rand(4, 1, 8, 8)
    loaded, plain = lithydra.load(run.path), lithydra.load(run.path, tta="none")
    torch.testing.assert_close(loaded(images), (plain(images) + plain(images.flip(3))) / 2)
    assert not torch.equal(loaded(images), plain(images))


def test_an_average_of_the_end_is_not_trained_longer(run_train: RunTrain) -> None:
    run = run_train(*SMALL, "average=swa")
    assert run.read_status()["no_more_epochs"] == "average.start was laid out over this run"
