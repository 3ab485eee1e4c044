"""Every precision trains, and so does every optimizer in those whose weights are not float32."""

import pytest
import torch
from omegaconf import DictConfig

from conftest import Compose, RunTrain
from lithydra.checks.config import RULES, check
from lithydra.errors import ConfigError
from lithydra.training import build
from lithydra.training.loading import load
from offered import FEW_EPOCHS, assert_loss_falls, choices, overrides

PROMISE = "19. Every choice that is offered trains"

PRECISIONS = [option for option in RULES["trainer.precision"].options if str(option) not in ("16", "16-mixed")]
IN_PRECISION = [("model.batch_norm=true", "model.dropout=0.1", "callbacks=histograms")] * len(PRECISIONS)
CASES = list(zip(PRECISIONS, IN_PRECISION, strict=True))
for other in ("64-true", "bf16-true"):
    CASES += [
        (other, ("model=cnn", "model.channels=[4]", "augmentation=affine", "trainer.gradient_clip_val=1")),
        (other, ("augmentation=mixup", "regularizer=l2", "trainer.accumulate_grad_batches=2")),
    ]


@pytest.mark.counted("runs in a precision")
@pytest.mark.parametrize(("precision", "settings"), CASES)
def test_precision_trains(precision: str | int, settings: tuple[str, ...], run_train: RunTrain) -> None:
    run = run_train(*FEW_EPOCHS, "lr=0.003", *settings, f"trainer.precision={precision}")
    assert_loss_falls(run)
    types = {"64": torch.float64, "64-true": torch.float64, "bf16-true": torch.bfloat16}
    state = torch.load(run.last, weights_only=True)["state_dict"]
    assert state["net.head.weight"].dtype == types.get(str(precision), torch.float32)
    loaded = load(run.path)
    images, labels = next(iter(build.data(DictConfig(loaded.record["config"])).test_dataloader()))
    accuracy = (loaded(images).argmax(1) == labels).float().mean().item()
    assert accuracy == pytest.approx(run.read_status()["metrics"]["test/acc"], abs=0.01)


@pytest.mark.slow
@pytest.mark.counted("optimizers in a precision")
@pytest.mark.parametrize("optimizer", choices("optimizer"))
@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_optimizer_trains_in_precision(precision: str, optimizer: str, run_train: RunTrain, compose: Compose) -> None:
    settings = (*FEW_EPOCHS, *overrides(optimizer), f"trainer.precision={precision}")
    if (optimizer, precision) == ("optimizer/lbfgs", "bf16-true"):
        with pytest.raises(ConfigError, match="optimizer=lbfgs: needs full precision"):
            check(compose(*settings))
        return
    assert_loss_falls(run_train(*settings))
