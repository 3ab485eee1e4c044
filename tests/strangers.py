"""What a stranger's files may hold, and the folder that none of it may change."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig

from conftest import CONF, SMALL, _compose  # pyright: ignore[reportPrivateUsage]
from lithydra.run import checkpoints
from lithydra.run.directory import RunDir
from lithydra.training.train import train

Node = dict[str, Any]
MARK = "MARK"  # in a gadget, the file or folder that it would leave


def gadgets(folder: Path) -> dict[str, Node]:
    """Nodes that leave `folder/MARK` when Hydra instantiates them, or would import a module that does."""
    mark = str(folder / MARK)
    (folder / "hubconf.py").write_text(f"open({mark!r}, 'w').close()\ndef entry(**_): pass\n")
    (folder / "gadget_module.py").write_text(f"open({mark!r}, 'w').close()\nclass Net: pass\n")
    path = {"_target_": "pathlib.Path", "_args_": [mark]}
    hub = {"repo_or_dir": str(folder), "model": "entry", "source": "local"}
    pickled = {"_target_": "io.BytesIO", "initial_bytes": b"cposix\nsystem\n."}
    return {
        "copy": {"_target_": "shutil.copy", "src": __file__, "dst": mark},
        "mkdir": {"_target_": "os.mkdir", "path": mark},
        "makedirs": {"_target_": "os.makedirs", "_args_": [mark]},
        "touch": {"_target_": "pathlib.Path.touch", "_args_": [path]},
        "write_text": {"_target_": "pathlib.Path.write_text", "_args_": [path, "x"]},
        "savetxt": {"_target_": "numpy.savetxt", "fname": mark, "X": [1.0]},
        "open": {"_target_": "builtins.open", "file": mark, "mode": "w"},
        "eval": {"_target_": "builtins.eval", "_args_": [f"open({mark!r}, 'w')"]},
        "exec": {"_target_": "builtins.exec", "_args_": [f"open({mark!r}, 'w')"]},
        "popen": {"_target_": "subprocess.Popen", "args": ["touch", mark]},
        "webbrowser": {"_target_": "webbrowser.open", "url": f"file://{mark}"},
        "hub": {"_target_": "torch.hub.load", **hub},
        "hub through torch.nn": {"_target_": "torch.nn.modules.module.torch.hub.load", **hub},
        "load": {"_target_": "torch.load", "f": pickled, "weights_only": False},
        "save": {"_target_": "torch.save", "obj": 1, "f": mark},
        "save through lithydra": {"_target_": "lithydra.models.mlp.torch.save", "obj": 1, "f": mark},
        "through globals": {"_target_": "lithydra.models.mlp.MLP.forward.__globals__.update", "_args_": [{}]},
        "own writer": {"_target_": "lithydra.files.write_text", "path": path, "text": "x"},
        "own helper": {"_target_": "lithydra.data.prepare._write", "arrays": None, "path": path},
        "weights": {"_target_": "torchvision.models.resnet.load_state_dict_from_url", "url": f"file://{mark}"},
        "module": {"_target_": "gadget_module.Net"},
        "imported": {"_target_": "importlib.import_module", "_args_": ["gadget_module"]},
        "located": {"_target_": "hydra.utils.get_class", "path": "gadget_module.Net"},
        "partial": {"_target_": "os.mkdir", "_partial_": True, "path": mark},
        "nested": {"_target_": "torch.nn.Linear", "in_features": {"_target_": "os.mkdir", "path": mark}},
        "in a list": {"_target_": "torch.nn.Sequential", "_args_": [[{"_target_": "os.mkdir", "path": mark}]]},
        "of a dict": {"_target_": {"_target_": "os.mkdir", "path": mark}},
        "created": {"x": "${oc.create:{_target_: os.mkdir, path: " + mark + "}}"},
        "decoded": {"x": "${oc.decode:'{_target_: os.mkdir}'}"},
        "environment": {"x": "${oc.env:HOME}"},
        "pointed to": {"_target_": "${paths.target}"},
    }


class Victim:
    """A folder that must stay as it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gadgets = gadgets(folder)
        self.before = sorted(folder.iterdir())

    def is_whole(self) -> bool:
        return sorted(self.folder.iterdir()) == self.before and "gadget_module" not in sys.modules


def write(run: RunDir, config: Node) -> None:
    """Into the checkpoint and config.yaml, as a stranger would: the checksum is right."""
    content = checkpoints.load(run.last)
    content["record"]["config"] = config
    for path in (run.last, run.best):
        checkpoints.save(content, path)
    run.config.write_text(yaml.safe_dump(config))


def bare(verb: str, data_dir: Path, run: RunDir) -> DictConfig:
    key = "resume" if verb == "train" else "run"
    groups = ["accelerator=cpu"] if verb in ("train", "evaluate", "predict") else []
    source = ["input=x.png"] if verb == "predict" else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose(verb, overrides=[f"paths.data={data_dir}", f"{key}={run.path}", *groups, *source])


@pytest.fixture
def victim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Victim:
    folder = tmp_path / "victim"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return Victim(folder)


@pytest.fixture(scope="module")
def finished(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run; tests change a copy."""
    folder = tmp_path_factory.mktemp("stranger")
    overrides = (*SMALL, "trainer.max_epochs=1", "model.hidden=[8]", f"run={folder / 'run'}")
    config, choices = _compose(*overrides, data_dir=data_dir, outputs=folder / "outputs")
    train(config, choices, list(overrides))
    return RunDir(folder / "run")


@pytest.fixture
def stranger(finished: RunDir, tmp_path: Path) -> RunDir:
    shutil.copytree(finished.path, tmp_path / "run")
    return RunDir(tmp_path / "run")
