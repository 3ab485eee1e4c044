"""Every choice that conf/ offers, what it needs beside itself, and small runs of it."""

from conftest import CONF, QUIET
from lithydra.run.directory import RunDir

NOT_HERE = ("local", "hydra", "study")  # a person's own, Hydra's own, and sweeps
ALL = [
    f"{path.parent.name}/{path.stem}"
    for path in sorted(CONF.glob("*/*.yaml"))
    if path.parent.name not in NOT_HERE and not path.name.startswith("_")
]
FEW_EPOCHS = (*QUIET, "data.limit=200", "trainer.max_epochs=3")
FEW_STEPS = (*QUIET, "data.limit=40", "data.val_fraction=0.25", "data.batch_size=6", "trainer.max_steps=2")
TWO_CLASSES = ("data.classes=[2,6]", "data.limit=200")
# What a choice needs beside itself.
NEEDS = {
    "loss/binary_cross_entropy": TWO_CLASSES,
    "loss/probability_l1": TWO_CLASSES,
    "augmentation/flip_crop": ("augmentation.flip_crop.padding=1",),  # of 8 pixels
    "augmentation/shift": ("augmentation.shift.pixels=1",),
    "method/distillation": (*("method.alpha=0.5", "method.temperature=2"), "method.teacher=TEACHER"),
    "method/simclr": ("monitor.metric=val/loss", "monitor.mode=min"),
    "metrics/calibration_error": ("monitor.mode=min",),
    "normalization/tiny": ("model.batch_norm=true",),
    "optimizer/lbfgs": ("data.batch_size=60",),
    "optimizer/sgd": ("lr=0.1",),
}


def choices(*groups: str) -> list[str]:
    return [choice for choice in ALL if choice.partition("/")[0] in groups]


def overrides(choice: str) -> tuple[str, ...]:
    group, _, name = choice.partition("/")
    monitored = (f"monitor.metric=val/{name}",) if group == "metrics" and name != "accuracy" else ()
    return f"{group}={name}", *monitored, *NEEDS.get(choice, ())


def assert_loss_falls(run: RunDir) -> None:
    losses = [float(row["train/loss"]) for row in run.read_metrics()]
    assert losses[-1] < losses[0], losses
