"""What a stranger's checkpoint, run or sweep names is data: nothing of it is imported or called."""

import contextlib
import gc
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import lithydra
from lithydra import overrides
from lithydra.errors import ConfigError, LithydraError
from lithydra.run import checkpoints, trust
from lithydra.run.directory import RunDir
from lithydra.run.trust import trusted
from lithydra.training.loading import load
from lithydra.training.resuming import resumed
from lithydra.verbs.evaluate import evaluate
from lithydra.verbs.explain import explain
from lithydra.verbs.export import export
from lithydra.verbs.predict import predict
from lithydra.verbs.reproduce_run import reproduce_run
from lithydra.verbs.serve import serve
from strangers import MARK, Node, Victim, bare, write

PROMISE = "15. A stranger's files are data"

PLACES = ("data", "normalization", "model", "loss", "optimizer", "scheduler", "regularizer", "augmentation", "trainer")
PLACES += ("accelerator", "callbacks", "logger", "monitor", "checkpoint", "init", "paths", "a new group")


def placed(config: Node, place: str, gadget: Node) -> Iterator[Node]:
    """Configs with the gadget as the group itself, as one of its settings, and within a list in it."""
    node = config.get(place) or {}
    for changed in (gadget, {**node, "stranger": gadget}, {**node, "strangers": [[1], {"x": [gadget]}]}):
        yield {**config, place: changed}


def one_line(error: pytest.ExceptionInfo[ConfigError]) -> str:
    text = str(error.value)
    assert "\n" not in text and ("trust=[" in text or "refers to nothing but ${run}" in text), text
    return text


EFFECTIVE = ("copy", "mkdir", "touch", "savetxt", "open", "save", "own writer", "module", "nested", "created")


@pytest.mark.counted("negative controls that failed as they must")
@pytest.mark.filterwarnings("ignore")  # of a file that stays open
@pytest.mark.parametrize("name", EFFECTIVE)
def test_hydra_alone_runs_the_gadget(victim: Victim, name: str) -> None:
    with contextlib.suppress(Exception):
        instantiate(OmegaConf.create({"x": victim.gadgets[name]}))
    gc.collect()  # here, so that the warning of the file that was left open is not another test's
    sys.modules.pop("gadget_module", None)
    assert not victim.is_whole()


@pytest.mark.counted("gadgets in each place of a config", 3 * 31)
@pytest.mark.parametrize("place", PLACES)
def test_a_gadget_is_refused_in_every_place(victim: Victim, finished: RunDir, place: str) -> None:
    config = finished.read_config()
    for gadget in victim.gadgets.values():
        for changed in placed(config, place, gadget):
            with pytest.raises(ConfigError) as error:
                trusted(changed, "x.ckpt")
            assert one_line(error).startswith("x.ckpt: ")
    assert len(victim.gadgets) == 31 and victim.is_whole()


# By name: the config that the command composes, and what it does with that.
ENTRIES: dict[str, tuple[str, Callable[[RunDir, DictConfig], object]]] = {
    "load": ("evaluate", lambda run, _: load(run.path)),
    "load a file": ("evaluate", lambda run, _: lithydra.load(run.best)),
    "evaluate": ("evaluate", lambda _, config: evaluate(config)),
    "predict": ("predict", lambda _, config: predict(config)),
    "export": ("export", lambda _, config: export(config)),
    "explain": ("explain", lambda _, config: explain(config)),
    "serve": ("serve", lambda _, config: serve(config)),
    "reproduce_run": ("reproduce_run", lambda _, config: reproduce_run(config)),
    "resume": ("train", lambda run, config: resumed(run, config, [])),
}


@pytest.mark.counted("gadgets in each place by each command", len(PLACES))
@pytest.mark.parametrize("entry", ENTRIES)
def test_no_command_runs_a_gadget(entry: str, victim: Victim, stranger: RunDir, data_dir: Path) -> None:
    verb, command = ENTRIES[entry]
    given = bare(verb, data_dir, stranger)
    config = stranger.read_config()
    plain = [name for name, gadget in victim.gadgets.items() if "initial_bytes" not in str(gadget)]
    for place, name in zip(PLACES, itertools.cycle(plain), strict=False):
        write(stranger, [*placed(config, place, victim.gadgets[name])][1])
        with pytest.raises(ConfigError) as error:
            command(stranger, given)
        one_line(error)
    assert victim.is_whole()


def test_a_checkpoint_that_pickles_code_is_one_line(victim: Victim, stranger: RunDir) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(victim.folder / MARK),)

    checkpoints.save({"record": Evil()}, stranger.best)
    with pytest.raises(LithydraError, match=r"best\.ckpt: holds other things than tensors and plain values"):
        load(stranger.path)
    assert victim.is_whole()


@pytest.mark.parametrize("content", [{}, {"record": None}, {"record": {"config": {}}}])
def test_another_programs_checkpoint_is_one_line(stranger: RunDir, content: Node) -> None:
    checkpoints.save(content, stranger.best)
    with pytest.raises(ConfigError, match=r"best\.ckpt: not a checkpoint of lithydra$"):
        load(stranger.path)


def test_a_config_without_end_is_one_line() -> None:
    endless: list[Any] = []
    endless.append(endless)
    wide: Any = "x"
    for _ in range(30):
        wide = [wide, wide]
    for content in (endless, wide):
        with pytest.raises(ConfigError, match=r"^x: not a config: nested too deep, or too large$"):
            trusted({"model": content}, "x")


def test_what_is_no_config_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^x: not a config: "):
        trusted({"model": torch.zeros(1)}, "x")


@pytest.fixture
def no_conf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "named_targets", frozenset)


def test_what_ships_needs_no_conf(no_conf: None) -> None:
    """A checkpoint loads where there is no checkout."""
    shipped = {name for name in overrides.named_targets() if not name.startswith("hydra_plugins.") and "." in name}
    network = {"lithydra.callbacks.mlflow_logger.LockedMLFlowLogger", "lightning.pytorch.loggers.WandbLogger"}
    network.add("lithydra.callbacks.trackio_logger.TrackioLogger")  # writes to a store of all runs
    assert len(shipped) > 50 and network < shipped
    for name in shipped - network:
        trusted({"x": {"_target_": name}}, "x")
    for name in network:
        with pytest.raises(ConfigError, match=rf"trust=\[{name.partition('.')[0]}\] allows it"):
            trusted({"x": {"_target_": name}}, "x")


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.GELU",
        "torch.optim.NAdam",
        "torch.optim.lr_scheduler.CyclicLR",
        "torchvision.models.resnet18",
        "torchvision.models.resnet.ResNet",
        "lightning.pytorch.callbacks.EMAWeightAveraging",
    ],
)
def test_classes_of_the_libraries_need_no_word(no_conf: None, name: str) -> None:
    assert trusted({"x": [{"_target_": name}]}, "x").x[0]._target_ == name


def test_names_of_the_persons_conf_and_command_line_are_theirs(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: mine.Net\nhead: {'_target_': 'mine.Head', n: 1}\n")
    assert overrides.named_targets(tmp_path) == {"mine.Net", "mine.Head"}
    stored = {"model": {"_target_": "mine.Net"}}
    assert trusted(stored, "x", given={"loss": {"x": [{"_target_": "mine.Net"}]}}).model._target_ == "mine.Net"
    with pytest.raises(ConfigError, match=r"^x: model\._target_=mine\.Net: .*; trust=\[mine\] allows it"):
        trusted(stored, "x", given={"loss": "mine.Net"})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Someone's package, with a net of theirs in it."""
    folder = tmp_path / "site" / "colleague"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import shutil\n")
    (folder / "nets.py").write_text("from lithydra.models.mlp import MLP\n\n\nclass Net(MLP):\n    pass\n")
    (folder / "broken.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(folder.parent)
    yield "colleague"
    for name in [name for name in sys.modules if name.split(".")[0] == "colleague"]:
        del sys.modules[name]


def test_a_trusted_package_is_taken_and_not_what_it_imports(package: str, stranger: RunDir) -> None:
    config = stranger.read_config()
    config["model"]["_target_"] = "colleague.nets.Net"
    write(stranger, config)
    with pytest.raises(ConfigError, match=r"model\._target_=colleague\.nets\.Net: .*; trust=\[colleague\] allows it"):
        load(stranger.path)
    assert "colleague" not in sys.modules
    assert type(load(stranger.path, trust=["colleague"]).net).__name__ == "Net"
    assert type(load(stranger.path, trust=["colleague.nets.Net"]).net).__name__ == "Net"
    for target in ("colleague.shutil.copy", "colleague.nets.Net.forward.__globals__.update", "colleague"):
        with pytest.raises(ConfigError, match="neither lithydra's nor named in conf/"):
            trusted({"x": {"_target_": target}}, "x", trust=[package])


def test_a_trusted_package_that_is_not_here_or_broken(package: str) -> None:
    trusted({"logger": {"_target_": "elsewhere.Logger"}}, "x", trust=["elsewhere"])  # may not be needed
    with pytest.raises(ConfigError, match=r"^trust=\[colleague\]: cannot be imported: .*no_such_dependency"):
        trusted({"model": {"_target_": "colleague.broken.Net"}}, "x", trust=[package])


@pytest.mark.parametrize("value", [3, [3], [""], None])
def test_what_is_no_list_of_packages_is_one_line(value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^trust={re.escape(str(value))}: must be a list of packages"):
        trusted({}, "x", trust=value)
