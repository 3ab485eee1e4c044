"""Every study composes, its first point passes the checks, and its verdicts speak of axes that it has."""

from pathlib import Path

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf, open_dict

from conftest import CONF
from lithydra.checks.config import check
from lithydra.sweeps.plan import Request
from lithydra.sweeps.study import check_rules

STUDIES = sorted(str(path.relative_to(CONF / "study").with_suffix("")) for path in CONF.glob("study/*/*.yaml"))
EXPECTED = {
    *(f"fashion_mnist/{name}" for name in ("scaling", "batch_size", "optimizer", "learning_rate")),
    *(
        f"fashion_mnist/{name}"
        for name in ("parameter_distribution", "annealing", "depth", "batch_norm", "overfitting")
    ),
    *(f"mnist/{name}" for name in ("activation", "normalization", "augmentation")),
    *(f"cifar10/{name}" for name in ("regularization", "random_search")),
}


def test_the_studies_are_all_there() -> None:
    assert set(STUDIES) >= EXPECTED and len(EXPECTED) == 14


@pytest.mark.parametrize("name", STUDIES)
def test_study_can_start_and_its_rules_name_its_axes(name: str, tmp_path: Path) -> None:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", [f"study={name}", f"paths.outputs={tmp_path}"], return_hydra_config=True)
        params = config.hydra.sweeper.params
        search = config.hydra.runtime.choices["hydra/sweeper"] == "optuna"
        loader = GlobalHydra.instance().config_loader()
        axes = {str(key): [] for key in params} if search else Request.parse(loader, params, [f"study={name}"]).axes
        first = [] if search else [f"{axis}={values[0]}" for axis, values in axes.items()]
        point = hydra.compose("train", [f"study={name}", f"paths.outputs={tmp_path}", *first], return_hydra_config=True)
    study = OmegaConf.to_container(point.study, resolve=True)
    assert isinstance(study, dict) and study["title"] and study["expectation"]
    assert study.get("verdict") or name not in EXPECTED
    check_rules({str(key): value for key, value in study.items()}, axes, point.monitor.metric)
    with open_dict(point):
        del point["hydra"]
    check(point)
    assert point.data.val_fraction > 0  # a study chooses on validation images
    header = (CONF / "study" / f"{name}.yaml").read_text().splitlines()
    assert header[1].startswith(f"# python train.py -m study={name}")
    assert yaml.safe_load("\n".join(header))["study"]["title"] == study["title"]
