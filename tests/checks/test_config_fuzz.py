"""Whatever is put in the place of a setting is accepted, or refused by name in one line; nothing else happens."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from conftest import Compose
from lithydra.checks.config import check, nodes
from lithydra.errors import ConfigError

PROMISE = "10. Bad input is refused before training"

# One choice of each kind beside the defaults.
CONFIGS = (
    "optimizer=adam",
    "optimizer=sgd scheduler=onecycle augmentation=affine regularizer=elastic_net callbacks=histograms logger=many",
    "optimizer=lbfgs scheduler=plateau model=cnn normalization=z_score callbacks=early_stopping loss=brier",
    "optimizer=rmsprop scheduler=multistep model=resnet18 augmentation=mixup callbacks=layer_statistics",
    "optimizer=adagrad scheduler=warmup_cosine model=resnet9 augmentation=cutout logger=csv debug=limit",
    "optimizer=adadelta scheduler=cosine model=alexnet augmentation=flip_crop accelerator=ddp_cpu debug=fast_dev_run",
)
VALUES = (
    None,
    "banana",
    "",
    True,
    -1,
    0,
    1.5,
    10**20,
    1e300,
    [],
    ["banana"],
    {},
    {"a": 1},
    "x" * 300,
    "${seed}",
    "a\nb",
)
GONE = object()


def mutations(config: DictConfig) -> Iterator[tuple[str, Any]]:
    """A key and what to put there; GONE for `~key`."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportAssignmentType]
    for key, now in nodes(plain):
        yield from ((key, value) for value in (*VALUES, GONE))
        if not isinstance(now, list):
            yield f"{key}.new", 1


def mutated(config: DictConfig, key: str, value: Any) -> DictConfig:
    result = copy.deepcopy(config)
    parent, _, name = key.rpartition(".")
    with open_dict(result):
        if value is GONE:
            node = OmegaConf.select(result, parent) if parent else result
            del node[name]
        else:
            OmegaConf.update(result, key, value, merge=False, force_add=True)
    return result


def refusal(config: DictConfig) -> str | None:
    try:
        check(config)
    except ConfigError as error:
        return str(error)
    return None


def assert_accepted_or_refused(line: str, compose: Compose, every: int) -> None:
    config = compose(*line.split())
    for key, value in [*mutations(config)][::every]:
        said = refusal(mutated(config, key, value))
        assert said is None or all(": " in row for row in said.split("\n")), (key, value, said)


def test_no_value_in_any_place_ends_in_a_traceback(compose: Compose) -> None:
    assert_accepted_or_refused(CONFIGS[0], compose, every=17)  # values come in rounds of 18


@pytest.mark.parametrize("key", ["run", "resume", "init.from", "paths.data", "paths.runs"])
def test_a_name_that_no_file_system_takes_is_refused(key: str, compose: Compose) -> None:
    said = refusal(mutated(compose(), key, "x" * 300))
    assert said is not None and re.fullmatch(rf"{key}=x+…: must be .*a path, each name in it at most 255 bytes\.", said)


@pytest.mark.slow
@pytest.mark.counted("configs with each setting replaced by 16 values, dropped, added to")
@pytest.mark.parametrize("line", CONFIGS)
def test_all_values_in_all_places(line: str, compose: Compose) -> None:
    assert_accepted_or_refused(line, compose, every=1)
