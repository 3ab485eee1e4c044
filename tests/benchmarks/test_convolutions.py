"""benchmarks/convolutions.py: it times the convolutions of a run's net, and says what share the run has reached."""

import re

import pytest

from conftest import RunTrain
from lithydra.errors import ConfigError
from lithydra.run.directory import RunDir


@pytest.fixture
def of_net(run_train: RunTrain) -> RunDir:
    settings = ("data.limit=200", "trainer.max_epochs=2", "callbacks=none", "logger=none")
    return run_train(*settings, "model=cnn", "model.channels=[8,16]")


def test_each_convolution_is_timed(of_net: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    from convolutions import compare

    compare(of_net)
    said = capsys.readouterr().out
    assert said.count("x 3 x 3") == 2 and "all of them" in said
    assert re.search(r"the run: \d+ GFLOP/s in training, \d+% of that", said)


def test_a_run_that_tells_no_speed_is_refused(of_net: RunDir) -> None:
    from convolutions import compare

    of_net.update_status(compute={})
    with pytest.raises(ConfigError, match="does not say how many operations a second"):
        compare(of_net)
