"""Promise 10 on composed configs: what is refused before training, in which words, and what is accepted."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf, open_dict

from bad_settings import BAD
from conftest import CONF, Compose
from lithydra.checks import machine
from lithydra.checks.arguments import ARGUMENTS, HYDRA
from lithydra.checks.config import ONE_CHOICE, check
from lithydra.checks.messages import one_line
from lithydra.checks.settings import NEEDED, RULES
from lithydra.errors import ConfigError
from lithydra.overrides import nodes

PROMISE = "10. Bad input is refused before training"


@pytest.mark.parametrize("line", BAD.strip().splitlines())
def test_bad_setting_is_refused_by_name(line: str, compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"NUMBER": "16", "FLAG": "false", "EMPTY": ""}.items():
        monkeypatch.setenv(name, text)
    config = compose(*line.split())
    with pytest.raises(ConfigError) as caught:
        check(config)
    key = line.split()[-1].partition("=")[0].lstrip("+")
    (message,) = str(caught.value).splitlines()
    assert message.startswith(f"{key}=") or f" {key}=" in message, message


GOOD = """
seed=4294967295
lr=1e-30
monitor.metric=val/loss monitor.mode=min
monitor.metric=train/loss monitor.mode=min
data.val_fraction=0
data.val_fraction=0.5
data.num_folds=5 data.fold=4
data.limit=0.5
data.limit=100
data.classes=[6,2]
model.hidden=[]
model.hidden=[10,10,10]
optimizer=sgd optimizer.momentum=0.9 optimizer.nesterov=true
optimizer=lbfgs optimizer.line_search_fn=null
optimizer=lbfgs trainer.precision=64-true
optimizer=adafactor optimizer.eps=[null,0.01]
optimizer_groups=no_decay
optimizer_groups=no_decay scheduler=cosine scheduler.eta_min=1e-5
+optimizer_groups.stem={parameters:[features.0.*],lr_factor:0.1,weight_decay:0}
scheduler=cosine scheduler.T_max=10
scheduler=plateau monitor.metric=train/loss monitor.mode=min data.val_fraction=0
callbacks=early_stopping callbacks.early_stopping.patience=0
trainer.max_steps=1
trainer.precision=bf16-mixed
trainer.gradient_clip_val=1
trainer.devices=auto
trainer.limit_train_batches=0.5
trainer.limit_train_batches=10
init.from=torchvision init.freeze=[features.*,head] init.head=keep
init.backbone_lr_factor=0.1
model=resnet18 model.weights=DEFAULT init.freeze=backbone init.head=replace
"""


@pytest.mark.parametrize("line", GOOD.strip().splitlines())
def test_good_setting_is_accepted(line: str, compose: Compose) -> None:
    check(compose(*line.split()))


def test_all_problems_are_told_at_once_each_in_a_line(compose: Compose) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose("lr=-1", "seed=1.5", "data.batch_size=0", "+momentum=0.9"))
    lines = str(caught.value).splitlines()
    assert sorted(line.partition("=")[0] for line in lines) == ["data.batch_size", "lr", "momentum", "seed"]


def test_a_value_that_another_setting_gives_is_refused_once(compose: Compose) -> None:
    """optimizer.lr and the scheduler's max_lr are ${lr}."""
    with pytest.raises(ConfigError) as caught:
        check(compose("scheduler=onecycle", "lr=-1"))
    assert str(caught.value) == "lr=-1: must be a number above 0."


OWN = """
{_target_: mine.Net, hidden: 128, width: 0.5, kernel_size: [3, 5], channels: 8, dropout: none, batch_norm: group}
{_target_: mine.Net, weights: {path: a.pt}, batch_norm_eps: auto}
"""


@pytest.mark.parametrize("model", OWN.strip().splitlines())
def test_settings_of_a_persons_own_class_are_its_own_business(model: str, compose: Compose) -> None:
    config = compose()
    config.model = OmegaConf.create(model)
    check(config)


def test_a_setting_is_known_by_the_class_that_takes_it(compose: Compose) -> None:
    config = compose("scheduler=step", "callbacks=early_stopping")
    config.optimizer = {"_target_": "torch.optim.Adafactor", "_partial_": True, "lr": "${lr}", "eps": [None, 0.001]}
    cyclic = {"_target_": "torch.optim.lr_scheduler.CyclicLR", "mode": "triangular2", "base_lr": 0.1, "max_lr": 0.2}
    config.scheduler = {**cyclic, "_partial_": True, "interval": "step", "gamma": 2.0}
    config.callbacks.early_stopping = {"_target_": "mine.Stopping", "patience": "long", "mode": "up"}
    config.data._target_ = "mine.Photos"
    with open_dict(config):
        config.data.channels, config.data.path = "all", 3
    check(config)
    config.data.batch_size = 0  # the base class's, whose ever the data set is
    with pytest.raises(ConfigError, match=r"^data\.batch_size=0: must be a whole number at least 1\.$"):
        check(config)


@pytest.mark.parametrize("accelerator", ["auto", "mps"])
def test_double_precision_is_refused_on_a_mac(
    accelerator: str, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, on_cpu = (compose(f"accelerator={a}", "trainer.precision=64-true") for a in (accelerator, "cpu"))
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(
        ConfigError, match=r"^trainer\.precision=64-true: Apple's GPUs have no float64; accelerator=cpu has$"
    ):
        check(config)
    check(on_cpu)


@pytest.mark.parametrize("key", sorted(key for key in NEEDED if key.count(".") < 2))
def test_what_every_run_needs_cannot_be_dropped(key: str, compose: Compose) -> None:
    config = compose()
    parent, _, name = key.rpartition(".")
    with open_dict(config):
        del (config[parent] if parent else config)[name]
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert re.fullmatch(rf"{re.escape(key)}: is missing; it must be .+", str(caught.value))


def test_a_group_of_one_choice_takes_no_list(compose: Compose) -> None:
    """Hydra merges the files of a list, and names no choice of such a group."""
    config = compose()
    choices: dict[str, str] = {group: "x" for group in ONE_CHOICE if group != "normalization"}
    with pytest.raises(ConfigError, match=r"^normalization: takes one choice, normalization=NAME; a list mixes"):
        check(config, choices)
    check(config, {**choices, "normalization": "min_max"})


def test_an_environment_variable_is_text_and_the_refusal_says_how_to_read_a_number(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LR", "0.1")
    with pytest.raises(ConfigError) as caught:
        check(compose("lr=${oc.env:LR}"))
    message = "lr='0.1' (text) (from ${oc.env:LR}): must be a number above 0. ${oc.decode:${oc.env:LR}} reads a number "
    assert str(caught.value) == f"{message}or true, false and null from the environment's text."
    config = compose()
    config.lr = "${oc.decode:${oc.env:LR}}"
    check(config)
    assert config.lr == 0.1


def test_an_old_run_with_two_learning_rates_is_resumed(compose: Compose) -> None:
    config = compose("optimizer.lr=0.5")
    with pytest.raises(ConfigError, match=r"optimizer\.lr=0\.5: .* say lr=0\.5 instead"):
        check(config)
    config.resume = "outputs/runs/old"
    check(config)


# These check themselves.
LOGGERS = ("lightning.pytorch.loggers.", "lithydra.callbacks.mlflow_logger.")
LATER = ("lithydra.augmentations.", "lithydra.normalization.", *LOGGERS)


def test_every_argument_in_conf_of_a_class_with_rules_has_one() -> None:
    for path in CONF.glob("*/*.yaml"):
        written: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(path))  # pyright: ignore[reportAssignmentType]
        for key, node in nodes({path.parent.name: written}):
            target = str(node.get("_target_")) if isinstance(node, dict) else ""
            if target in ARGUMENTS or target.startswith(("lithydra.", "lightning.", "torch.")):
                group = key.rpartition(".")[2]
                known = {"defaults", *HYDRA, *ARGUMENTS.get(target, {})}
                if target not in ARGUMENTS and target.startswith(LATER):
                    continue
                assert all(name in known or f"{group}.{name}" in RULES for name in node), (path, set(node) - known)


@pytest.mark.parametrize("line", ["+model.batch_norm.new=1", "+trainer.max_epochs.new=1", "+seed.new=1"])
def test_a_group_in_the_place_of_a_value_is_refused(line: str, compose: Compose) -> None:
    key = line.lstrip("+").removesuffix(".new=1")
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}={{new: 1}}: must be "):
        check(compose(line))


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("trainer.precision=bf16-mixde", "Did you mean bf16-mixed?"),
        ("monitor.metric=val/accuracy", "Did you mean val/acc?"),
        ("trainer.steps_per_execution=aut", "Did you mean auto?"),
        ("optimizer=sgd +momentum=0.9", "Did you mean optimizer.momentum?"),
        ("+sead=1", "Did you mean seed?"),
        ("+max_epochs=3", "Did you mean trainer.max_epochs?"),
    ],
)
def test_a_near_name_is_suggested(line: str, hint: str, compose: Compose) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose(*line.split()))
    assert str(caught.value).endswith(hint)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("line", ["accelerator=auto trainer.precision=16-mixed", "accelerator=gpu"])
def test_what_needs_a_gpu_is_refused_without_one(line: str, compose: Compose) -> None:
    config = compose(*line.split())
    with pytest.raises(ConfigError, match=line.split()[-1]):
        check(config)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("compile=graph trainer.accumulate_grad_batches=4", "compile=graph keeps one batch's gradients"),
        ("model=airbench trainer.sync_batchnorm=true", "would drop the biases of model=airbench's norms"),
    ],
)
def test_what_no_gpu_can_do_is_refused_with_one(
    line: str, message: str, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpu_device_exists", lambda: True)
    with pytest.raises(ConfigError, match=rf"^{line.split()[-1]}: {message}"):
        check(compose("accelerator=gpu", *line.split()))
    check(compose("accelerator=gpu", line.split()[0]))


def test_output_path_below_a_file_is_refused(compose: Compose, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"paths\.runs=.*/file/runs: .*/file is a file, not a directory"):
        check(compose(f"paths.runs={tmp_path / 'file' / 'runs'}"))


def test_where_trained_weights_come_from_is_looked_at_before_torch_is_imported(
    compose: Compose, tmp_path: Path
) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            check(compose(f"init.from={path}"))
        return str(caught.value)

    run = tmp_path / "source"
    (run / "checkpoints").mkdir(parents=True)
    assert refusal(run) == f"init.from={run}: not a run directory (it has no config.yaml)"
    (run / "config.yaml").touch()
    assert refusal(run) == f"init.from={run}: has no checkpoint yet"
    (run / "checkpoints" / "last.ckpt").touch()
    check(compose(f"init.from={run}"))
    check(compose(f"init.from={run / 'checkpoints' / 'last.ckpt'}"))
    assert refusal(tmp_path / "sourse").endswith("and not torchvision. Did you mean source?")
    check(compose("init.from=gone", f"resume={run}"))  # a resumed run does not need it


@pytest.mark.parametrize(
    ("launcher", "line"),
    [("submitit_slurm", '-c constraints.txt -e ".[slurm]"'), ("ray", '-c constraints-ray.txt -e ".[ray]"')],
)
def test_a_launcher_that_is_not_installed_is_named_with_its_extra(launcher: str, line: str) -> None:
    error = MissingConfigException("", missing_cfg_file=f"hydra/launcher/{launcher}", options=["basic", "local"])
    assert one_line(error) == f"hydra/launcher={launcher}: not installed; this needs pip install {line}"
