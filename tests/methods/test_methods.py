"""What happens in a training step: the methods that ship, and one of a person's own."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lithydra
from conftest import SMALL, RunTrain, checkpoint, rows, weights
from lithydra.augmentations.chain import Chain
from lithydra.augmentations.transforms import AlternatingFlip
from lithydra.errors import ConfigError
from lithydra.methods.adversarial import Adversarial
from lithydra.methods.base import Method, Parts
from lithydra.methods.distillation import Distillation
from lithydra.methods.simclr import SimCLR
from lithydra.metrics import predicted_classes
from lithydra.normalization import Normalization
from lithydra.run.directory import RunDir
from lithydra.verbs.evaluate import evaluate
from lithydra.verbs.explain import explain
from lithydra.verbs.export import export
from lithydra.verbs.predict import predict
from lithydra.verbs.serve import serve
from trained import settings

SHAPE = (1, 6, 6)
HERE = "test_methods"


def bound(method: Method, net: nn.Module | None = None, num_classes: int = 3) -> Method:
    """A method with the parts that it has in a run."""
    net = net or nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, num_classes))
    names = [str(label) for label in range(num_classes)]
    parts = Parts(net, nn.CrossEntropyLoss(), Normalization([0.1], [0.5]), Chain(), SHAPE, names, lambda run: run)
    method.bind(parts)
    return method


def batch(size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, *SHAPE), generator=generator, dtype=torch.uint8)
    return images, torch.arange(size) % 3


class Weighted(Method):
    """A person's own: later images of a batch count more."""

    def training_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(self.normalize(images))
        losses = F.cross_entropy(logits, labels, reduction="none")
        self.log_mean("hardest", losses.max())
        return (losses * torch.linspace(0.5, 1.5, len(losses))).mean(), logits


def test_a_persons_own_method_trains_and_its_scalars_are_logged(run_train: RunTrain) -> None:
    run = run_train(*SMALL, f"method={{_target_: {HERE}.Weighted}}", f"trust=[{HERE}]")
    first, last = rows(run)
    assert float(last["train/loss"]) < float(first["train/loss"]) < float(first["train/hardest"])
    assert run.read_status()["metrics"]["train/hardest"] == pytest.approx(float(last["train/hardest"]))


@pytest.mark.parametrize("steps", [1, 5])
def test_attacked_images_stay_near_and_are_worse(steps: int) -> None:
    method = bound(Adversarial(epsilon=0.1, steps=steps))
    method.net.eval()
    images, labels = batch()
    pixels = images.float() / 255
    attacked = method.attacked(pixels, labels)  # pyright: ignore[reportCallIssue]
    assert (attacked - pixels).abs().max() <= 0.1 + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1
    before, after = (method.loss(method.net(method.normalize(x)), labels) for x in (pixels, attacked))
    assert after > before
    assert all(p.grad is None for p in method.net.parameters())


def test_an_attack_leaves_modes_and_statistics_alone() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(36, 3))
    method = bound(Adversarial(), net)
    net[0].eval()
    mean = net[0].running_mean.clone()  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    images, labels = batch()
    method.attacked(images.float() / 255, labels)  # pyright: ignore[reportCallIssue]
    assert net.training and not net[0].training and torch.equal(net[0].running_mean, mean)  # pyright: ignore


def test_half_precision_attacks_as_full_precision_does() -> None:
    """Where many images are classified well, the gradient of their mean loss is 0 in float16."""
    method, (images, _) = bound(Adversarial(random_start=False)), batch(1000)
    torch.manual_seed(0)
    for parameter in method.net.eval().parameters():
        nn.init.normal_(parameter, std=0.3)
    pixels = images.float() / 255
    labels = predicted_classes(method.net(method.normalize(pixels)))
    method.net[-1].weight.data *= 5  # pyright: ignore[reportIndexIssue]
    full = method.attacked(pixels, labels)  # pyright: ignore[reportCallIssue]
    with torch.autocast("cpu", torch.float16):
        half = method.attacked(pixels, labels)  # pyright: ignore[reportCallIssue]
    assert (full != pixels).float().mean() > 0.99 and (half != full).float().mean() < 0.01


def test_robust_accuracy_is_measured_alike_each_time_and_draws_no_random_numbers() -> None:
    method, (images, labels) = bound(Adversarial(epsilon=0.3, steps=3)), batch()
    method.net.eval()
    state = torch.get_rng_state()
    with torch.inference_mode():
        first, again = (method.evaluation(images, labels)["robust_acc"] for _ in range(2))
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), state)
    plain = (method.net(method.normalize(images)).argmax(1) == labels).float().mean()
    assert first < plain


def test_adversarial_training_is_more_robust_than_plain(run_train: RunTrain) -> None:
    settings = (*SMALL, "trainer.max_epochs=6", "data.limit=600", "method=adversarial", "method.epsilon=0.15")
    robust, plain = (run_train(*settings, f"method.trained={on}") for on in ("true", "false"))
    usual = run_train(*settings[:-2])
    assert all(torch.equal(value, weights(plain)[key]) for key, value in weights(usual).items())
    accuracies = [run.read_status()["metrics"]["test/robust_acc"] for run in (robust, plain)]
    assert accuracies[0] > accuracies[1] + 0.05


def test_distillation_is_hintons_loss() -> None:
    class Teacher(nn.Module):
        device = torch.device("cpu")
        record: dict = {"data": {"class_names": ["0", "1", "2"], "image_shape": [1, 6, 6]}}  # noqa: RUF012

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :3].float()

        @staticmethod
        def probabilities(logits: Tensor) -> Tensor:
            return logits.softmax(1)

    method = bound(Distillation(teacher="x", temperature=2.0, alpha=0.3))
    method.__dict__["load"] = lambda run: Teacher()
    method.setup()
    method.net.eval()
    images, labels = batch()
    loss, logits = method.training_loss(images, labels)
    assert logits is not None
    soft = (Teacher()(images) / 2).softmax(1)
    kl = (soft * (soft.clamp(min=1e-30).log() - (logits / 2).log_softmax(1))).sum(1).mean()
    expected = 0.7 * F.cross_entropy(logits, labels) + 0.3 * 4 * kl
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert not any("teacher." in key for key in method.state_dict())


def test_a_student_is_loaded_without_its_teacher_and_resumed_with_the_same_one(run_train: RunTrain) -> None:
    teacher = run_train(*SMALL, "model.hidden=[60]")
    settings = (*SMALL, "model=linear", "method=distillation", f"method.teacher={teacher.path}")
    student = run_train(*settings)
    assert "train/distillation_loss" in rows(student)[0]
    hidden = teacher.path.rename(teacher.path.with_name("away"))
    assert lithydra.load(student.path)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    hidden.rename(teacher.path)


def test_another_teacher_is_refused(run_train: RunTrain) -> None:
    other = run_train(*SMALL, "data.classes=[1,2]", "data.limit=200")
    settings = (*SMALL, "model=linear", "method=distillation")
    with pytest.raises(ConfigError, match=r"method\.teacher=.*: trained on classes \['1', '2'\], and the data have"):
        run_train(*settings, f"method.teacher={other.path}")
    with pytest.raises(ConfigError, match=r"^method\.teacher: must be given, method\.teacher=…"):
        run_train(*settings)


def test_contrastive_loss_is_lowest_for_views_that_match() -> None:
    method = bound(SimCLR(temperature=0.1)).eval()
    method.setup()
    method.net.eval()
    images, _ = batch()
    same = torch.cat([images, images])
    other = torch.cat([images, images.roll(1, 0)])
    losses = [method.training_loss(views, torch.zeros(12))[0].item() for views in (same, other)]
    assert losses[0] < losses[1]
    vectors = F.normalize(method.projection(method._features(same)), dim=1)  # pyright: ignore
    similarity = (vectors @ vectors.T / 0.1).tolist()
    by_hand = [
        -(row[(i + 12) % 24] - math.log(sum(math.exp(s) for j, s in enumerate(row) if j != i)))
        for i, row in enumerate(similarity)
    ]
    assert losses[0] == pytest.approx(sum(by_hand) / 24, rel=1e-4)


def test_a_pretrained_run_measures_its_loss_alone_and_starts_another(run_train: RunTrain) -> None:
    settings = (*SMALL, "method=simclr", "augmentation=affine", "monitor.metric=val/loss", "monitor.mode=min")
    before = run_train(*settings)
    assert {name for name in before.read_status()["metrics"]} == {"train/loss", "val/loss", "test/loss"}
    assert any(key.startswith("method.projection.") for key in weights(before))
    after = run_train(*SMALL, f"init.from={before.path}", "init.head=replace", "init.freeze=backbone")
    hidden = "net.hidden.0.0.weight"
    assert torch.equal(checkpoint(after.last)["state_dict"][hidden], checkpoint(before.best)["state_dict"][hidden])


def test_several_processes_cannot_share_what_is_compared(run_train: RunTrain) -> None:
    with pytest.raises(ConfigError, match="method: SimCLR compares the images of a batch, so one process has them"):
        run_train(*SMALL, "method=simclr", "augmentation=affine", "accelerator=ddp_cpu")


def test_a_run_of_before_there_were_methods_is_supervised(run_train: RunTrain) -> None:
    run = run_train(*SMALL)
    content = checkpoint(run.last)
    for key in ("method", "metrics", "average", "tta"):
        content["record"]["config"].pop(key)
    from lithydra.run import checkpoints

    checkpoints.save(content, run.path / "old.ckpt")
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(lithydra.load(run.path / "old.ckpt")(images), lithydra.load(run.path, "last")(images))
    assert RunDir(run.path).read_config()["method"] == {"_target_": "lithydra.methods.supervised.Supervised"}


UNSUPERVISED = (*SMALL, "method=simclr", "monitor.metric=val/loss", "monitor.mode=min", "data.eval_batch_size=100")


@pytest.mark.parametrize("augmentation", ["affine", "[alternating_flip,shift]"])
def test_a_pretrained_run_is_evaluated_by_its_own_loss(run_train: RunTrain, data_dir: Path, augmentation: str) -> None:
    run = run_train(*UNSUPERVISED, f"augmentation={augmentation}", "average=ema")
    for split in ("val", "test"):
        found = evaluate(settings("evaluate", data_dir, f"run={run.path}", f"split={split}"))["metrics"]
        assert found == {f"{split}/loss": run.read_status()["metrics"][f"{split}/loss"]}


def test_a_pretrained_run_gives_no_probabilities(run_train: RunTrain, data_dir: Path) -> None:
    run = run_train(*UNSUPERVISED, "augmentation=affine", "trainer.max_epochs=1")
    refused = (
        rf"^run={run.path}: SimCLR has trained no head to classify; train\.py init\.from={run.path} init\.head=rep"
    )
    config = settings("predict", data_dir, f"run={run.path}", "input=x.png")  # which has what the others load by, too
    for verb in (predict, export, explain, serve):
        with pytest.raises(ConfigError, match=refused):
            verb(config)


def test_views_of_an_evaluation_are_the_same_whatever_was_trained_on() -> None:
    method = bound(SimCLR())
    method.__dict__["augment"] = Chain([AlternatingFlip(SHAPE, 3)])
    method.setup()
    method.net.eval()
    images, labels = batch()
    losses: list[Tensor] = []
    for epoch, size in ((0, 5), (1, 12), (2, 12)):
        method.augment.set_position(epoch, torch.arange(size))
        losses.append(method.evaluation(images, labels)["loss"])
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])


class Measured(Method):
    """A person's own: a second head, which is trained beside the net and measured with it."""

    def setup(self) -> None:
        self.second = nn.Linear(64, len(self.class_names))

    def training_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(self.normalize(images))
        return self.loss(logits, labels) + F.cross_entropy(self._seconds(images), labels), logits

    def evaluation(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"second_loss": F.cross_entropy(self._seconds(images), labels)}

    def _seconds(self, images: Tensor) -> Tensor:
        return self.second(self.normalize(images).flatten(1))


def test_what_a_method_has_trained_is_there_to_be_evaluated(run_train: RunTrain, data_dir: Path) -> None:
    run = run_train(*SMALL, f"method={{_target_: {HERE}.Measured}}", f"trust=[{HERE}]")
    found = evaluate(settings("evaluate", data_dir, f"run={run.path}", f"trust=[{HERE}]"))["metrics"]
    assert found["test/second_loss"] == run.read_status()["metrics"]["test/second_loss"]
    assert lithydra.load(run.path, trust=[HERE])(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
