"""What `init` may be beside the other settings: the rules of transfer learning that need no torch."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lithydra.checks.rules import shown
from lithydra.errors import ConfigError, nearest
from lithydra.run.directory import RunDir


def _settings(config: dict[str, Any]) -> Iterator[str]:
    init = config.get("init", {})
    if not init:
        return
    freeze, factor = init["freeze"], init["backbone_lr_factor"]
    if init["from"] is None and not config["model"].get("weights"):
        if freeze != "none":
            given = freeze if isinstance(freeze, str) else f"[{','.join(freeze)}]"
            yield f"init.freeze={given}: would freeze random weights; init.from=RUN says where trained ones are"
        if init["head"] != "auto":
            yield f"init.head={init['head']}: needs trained weights; init.from=RUN says where they are"
    if factor == 1:
        return
    if freeze == "backbone":
        yield f"init.backbone_lr_factor={factor}: init.freeze=backbone leaves no backbone to train"
    if str(config["optimizer"]["_target_"]).endswith("LBFGS"):
        yield f"init.backbone_lr_factor={factor}: optimizer=lbfgs has one lr for all weights"
    if config["scheduler"].get("eta_min"):
        yield (
            f"scheduler.eta_min={config['scheduler']['eta_min']}: is one lr for all weights, and "
            "init.backbone_lr_factor gives the backbone its own; scheduler=warmup_cosine has final_lr_factor instead"
        )


def _source(config: dict[str, Any]) -> Iterator[str]:
    source = config.get("init", {}).get("from")
    if source in (None, "torchvision") or config["resume"]:  # a resumed run does not need its source
        return
    path = Path(source)
    if path.is_dir():
        try:
            RunDir.open(path, "init.from").checkpoint()
        except ConfigError as error:
            yield str(error).replace(f"run={path}", f"init.from={path}")
    elif not path.exists():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else ())
        yield f"init.from={shown(source)}: no such run directory or checkpoint, and not torchvision.{near}"


INIT_COMBINATIONS: tuple[Callable[[dict[str, Any]], Iterator[str]], ...] = (_settings, _source)
