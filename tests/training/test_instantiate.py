"""A class that cannot be had is refused with the reason, in one line."""

import sys
from pathlib import Path

import pytest

from conftest import Compose
from lithydra.errors import ConfigError
from lithydra.models.mlp import MLP
from lithydra.training.instantiate import located, make, refuse_unknown_arguments

PROMISE = "10. Bad input is refused before training"

MODULES = {
    "broken_syntax": "import torch\n\ndef net(:\n",
    "missing_import": "import torch\n\nimport nowhere_to_be_found\n",
    "missing_name": "from torch import no_such_thing\n",
    "raising": "\n\nwidth = 1 / 0\n",
    "whole": "class Net:\n    pass\n\n\nwidth = 3\n",
}
REFUSED = {
    "lithydra.models.mpl.MLP": "lithydra.models has no mpl. Did you mean lithydra.models.mlp?",
    "lithydra.models.mlp.MPL": "lithydra.models.mlp has no MPL. Did you mean lithydra.models.mlp.MLP?",
    "torch.optim.Adamm": "torch.optim has no Adamm. Did you mean torch.optim.Adam?",
    "nowhere.at.all": "there is no module nowhere",
    "own.broken_syntax.Net": "own/broken_syntax.py, line 3: SyntaxError: invalid syntax",
    "own.missing_import.Net": "own/missing_import.py, line 3: No module named 'nowhere_to_be_found'",
    "own.missing_name.Net": "own/missing_name.py, line 1: ImportError: cannot import name 'no_such_thing' from 'torch'",
    "own.raising.Net": "own/raising.py, line 3: ZeroDivisionError: division by zero",
    "own.whole.Nett": "own.whole has no Nett. Did you mean own.whole.Net?",
    "own.whole.Net.layers": "own.whole.Net has no layers.",
    "own.whole.width": "of type int, not a class or a function",
    "own.whole": "of type module, not a class or a function",
    "": "must be a class or function by its module, as a.b.Name",
    ".Net": "must be a class or function by its module",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of a person's own, in the working directory."""
    package = tmp_path / "own"
    package.mkdir()
    for name, text in {"__init__": "", **MODULES}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "own"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("target", REFUSED)
def test_what_cannot_be_had_is_refused_with_the_reason(target: str) -> None:
    with pytest.raises(ConfigError) as caught:
        located("model", target)
    said = str(caught.value)
    assert said.startswith(f"model._target_={target}: {REFUSED[target]}") and "\n" not in said, said


def test_a_target_is_found_as_python_would_import_it() -> None:
    assert located("model", "lithydra.models.mlp.MLP") is MLP
    assert located("logger", "pathlib.Path.cwd")() == Path.cwd()


@pytest.mark.usefixtures("own")
def test_the_reason_is_told_when_a_group_is_made(compose: Compose) -> None:
    with pytest.raises(
        ConfigError, match=r"^model\._target_=own\.missing_import\.Net: own/missing_import\.py, line 3: "
    ):
        make(compose("model._target_=own.missing_import.Net"), "model", in_shape=(1, 8, 8), num_classes=10)


def test_what_tensorboard_does_not_take_is_refused_before_there_is_a_run(compose: Compose) -> None:
    config = compose("+logger.tensorboard.new=1", "+logger.tensorboard.flush_secs=10")
    with pytest.raises(ConfigError, match=r"^logger\.tensorboard\.new=1: TensorBoardLogger takes .*flush_secs"):
        refuse_unknown_arguments("logger", config.logger)
