"""Settings that are valid one by one and cannot work together: each check yields a line for each problem."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lithydra.checks.arguments import EARLY_STOPPING
from lithydra.checks.machine import device, directories, loggers, own_data
from lithydra.checks.rules import shown
from lithydra.errors import ConfigError, nearest
from lithydra.run.directory import RunDir
from lithydra.run.metric_names import better

SUPERVISED = "lithydra.methods.supervised.Supervised"
PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"
AIRBENCH = "lithydra.models.airbench.Airbench"
ONE_CYCLE = "torch.optim.lr_scheduler.OneCycleLR"


def _monitor(config: dict[str, Any]) -> Iterator[str]:
    metric, mode = config["monitor"]["metric"], config["monitor"]["mode"]
    right = better(metric)
    if right not in (None, mode):
        yield f"monitor.mode={mode}: {metric} is better the {'higher' if right == 'max' else 'lower'}; use {right}"
    unseen = "and data.val_fraction=0 leaves no validation images"
    for name, stopping in _early_stopping(config):
        watched, way = stopping.get("monitor", ""), stopping.get("mode", "min")
        if watched and better(watched) not in (None, way):
            yield f"callbacks.{name}.mode={way}: the wrong way round for {watched}"
        if watched.startswith("val/") and not _validates(config):
            yield f"callbacks=early_stopping: watches {watched}, {unseen}"
    scheduler = config["scheduler"]
    if scheduler.get("_target_") == PLATEAU:
        if right not in (None, scheduler.get("mode", "min")):
            yield f"scheduler.mode={scheduler.get('mode', 'min')}: the wrong way round for monitor.metric={metric}"
        if scheduler.get("interval", "epoch") != "epoch":
            yield "scheduler.interval=step: a plateau is looked for once an epoch"
        if metric.startswith("val/") and not _validates(config):
            yield f"scheduler=plateau: watches {metric}, {unseen}"


def _measured(config: dict[str, Any]) -> Iterator[str]:
    """Where the step is the usual one, what is measured is known here; else the dry run finds out."""
    if config["module"] or config["method"].get("_target_") != SUPERVISED:
        return
    names = ["train/loss", "train/acc", "val/loss", *(f"val/{name}" for name in config["metrics"])]
    watched = {f"callbacks.{name}.monitor": stopping.get("monitor") for name, stopping in _early_stopping(config)}
    for key, metric in {"monitor.metric": config["monitor"]["metric"], **watched}.items():
        if metric and metric not in names:
            yield unmeasured(key, metric, names)


def unmeasured(key: str, metric: str, names: Sequence[str]) -> str:
    """The line that refuses to go by a metric that a run does not have."""
    return f"{key}={metric}: not measured; there are {', '.join(names)}.{nearest(metric, names)}"


def _early_stopping(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, callback in config["callbacks"].items():
        if callback["_target_"] in EARLY_STOPPING:
            yield name, callback


def _validates(config: dict[str, Any]) -> bool:
    if "val_fraction" not in config["data"]:  # a LightningDataModule of one's own
        return True
    return config["data"].get("val_fraction", 0) > 0 or bool(config["data"].get("num_folds"))


def _folds(config: dict[str, Any]) -> Iterator[str]:
    folds, fold = config["data"].get("num_folds"), config["data"].get("fold", 0)
    if folds and fold >= folds:
        yield f"data.fold={fold}: data.num_folds={folds} has folds 0 to {folds - 1}"
    if not folds and fold:
        yield f"data.fold={fold}: needs data.num_folds"


def _classes(config: dict[str, Any]) -> Iterator[str]:
    classes = config["data"].get("classes")
    if classes and len(set(classes)) < len(classes):
        yield f"data.classes={classes}: names a class twice"


def _lbfgs(config: dict[str, Any]) -> Iterator[str]:
    if not str(config["optimizer"]["_target_"]).endswith("LBFGS"):
        return
    trainer = config["trainer"]
    if trainer["precision"] not in ("32-true", "64-true", "32", "64", 32, 64):
        yield f"optimizer=lbfgs: needs full precision, and trainer.precision={trainer['precision']}"
    if trainer["gradient_clip_val"] is not None:
        yield "optimizer=lbfgs: its line search sees no clipped gradient; leave trainer.gradient_clip_val=null"
    if trainer["accumulate_grad_batches"] > 1:
        yield "optimizer=lbfgs: evaluates each batch anew; leave trainer.accumulate_grad_batches=1"


def _module(config: dict[str, Any]) -> Iterator[str]:
    """Settings that a LightningModule of one's own does not know."""
    if not config["module"]:
        return
    unused = {"average": config["average"], "tta": config["tta"] != "none", "regularizer": config["regularizer"]}
    unused |= {f"callbacks.{name}": _looks_into_nets(node) for name, node in config["callbacks"].items()}
    unused |= {
        "init.from": config.get("init", {}).get("from"),
        "compile": config["compile"],
        "train_metrics": config["train_metrics"],
        "trainer.precision=auto": config["trainer"]["precision"] == "auto",
        "trainer.max_seconds": config["trainer"].get("max_seconds"),
    }
    init = config.get("init", {})
    if not config["resume"]:  # an older run may have these, and goes on without them
        unused |= {
            "optimizer_groups": config["optimizer_groups"],
            "init.freeze": init.get("freeze", "none") != "none",
            "init.backbone_lr_factor": init.get("backbone_lr_factor", 1) != 1,
        }
    for key, value in unused.items():
        if value:
            yield f"{key}: is lithydra's own; module={config['module']['_target_']} has its own step"
    if config["trainer"]["steps_per_execution"] not in ("auto", 1):
        yield f"trainer.steps_per_execution={config['trainer']['steps_per_execution']}: Lightning's own loop takes one"


def _looks_into_nets(callback: dict[str, Any]) -> bool:
    return callback["_target_"].startswith(("lithydra.callbacks.histograms.", "lithydra.callbacks.layer_statistics."))


def _average(config: dict[str, Any]) -> Iterator[str]:
    precision = config["trainer"]["precision"]
    if config.get("average") and str(precision) in ("bf16-true", "16-true"):
        yield f"average: its small steps are lost in trainer.precision={precision}; use bf16-mixed"


def _processes(config: dict[str, Any]) -> Iterator[str]:
    """Settings that several processes cannot train, where the number is given; `build.place` checks `devices=-1`."""
    trainer = config["trainer"]
    devices = trainer["devices"]
    count = len(devices) if isinstance(devices, list) else devices if isinstance(devices, int) else 1
    if count > 1 or trainer["num_nodes"] > 1:
        yield from refused_in_several(config)


def refused_in_several(config: dict[str, Any]) -> Iterator[str]:
    """What cannot be trained by several processes."""
    if str(config["optimizer"]["_target_"]).endswith("LBFGS"):
        yield "optimizer=lbfgs: each process would search along its own line; trainer.devices=1 trains with one"


def _graph(config: dict[str, Any]) -> Iterator[str]:
    """Gradients lie in the graph's memory, which its next replay writes to."""
    batches = config["trainer"]["accumulate_grad_batches"]
    if config["compile"] == "graph" and batches > 1:
        yield f"trainer.accumulate_grad_batches={batches}: compile=graph keeps one batch's gradients; use compile=true"


def _sync_batchnorm(config: dict[str, Any]) -> Iterator[str]:
    """Torch makes other layers of BatchNorm's, by what BatchNorm itself has."""
    if config["trainer"].get("sync_batchnorm") and config["model"].get("_target_") == AIRBENCH:
        yield "trainer.sync_batchnorm=true: would drop the biases of model=airbench's norms; leave it false"


def _one_lr(config: dict[str, Any]) -> Iterator[str]:
    """`lr` is what is recorded, searched and scheduled, so no target may be given another one."""
    if config["resume"]:  # an old run may have two; a command line that gives it a second is refused on resume
        return
    lr, optimizer, scheduler = config["lr"], config["optimizer"], config["scheduler"]
    if optimizer.get("lr", lr) != lr:
        yield f"optimizer.lr={optimizer['lr']}: there is one learning rate, lr={lr}; say lr={optimizer['lr']} instead"
    if "lr" not in optimizer and optimizer["_target_"].startswith(("torch.optim.", "lithydra.optimizers.")):
        yield f"optimizer.lr: is missing; it must be ${{lr}}, the learning rate of lr={lr}"
    if scheduler.get("_target_") == ONE_CYCLE and scheduler.get("max_lr", lr) != lr:
        given = scheduler["max_lr"]
        yield f"scheduler.max_lr={given}: there is one learning rate, lr={lr}; say lr={given} instead"


def _nesterov(config: dict[str, Any]) -> Iterator[str]:
    sgd = config["optimizer"]["_target_"] == "torch.optim.SGD"
    if sgd and config["optimizer"].get("nesterov") and not config["optimizer"].get("momentum"):
        yield "optimizer.nesterov=true: needs optimizer.momentum above 0"


def _momentum_cycle(config: dict[str, Any]) -> Iterator[str]:
    has_momentum = {"momentum", "betas"} & config["optimizer"].keys()
    cycles = config["scheduler"].get("_target_") == ONE_CYCLE and config["scheduler"].get("cycle_momentum", True)
    if cycles and not has_momentum:
        yield "scheduler.cycle_momentum=true: the optimizer has no momentum to cycle"


def _init(config: dict[str, Any]) -> Iterator[str]:
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


def _optimizer_groups(config: dict[str, Any]) -> Iterator[str]:
    groups = config["optimizer_groups"]
    if groups and str(config["optimizer"]["_target_"]).endswith("LBFGS"):
        yield f"optimizer_groups={','.join(groups)}: optimizer=lbfgs has one group, all weights"
    factors = {f"optimizer_groups.{name}.lr_factor": node.get("lr_factor", 1) for name, node in groups.items()}
    factors["init.backbone_lr_factor"] = config.get("init", {}).get("backbone_lr_factor", 1)
    smallest, others = config["scheduler"].get("eta_min"), [key for key, factor in factors.items() if factor != 1]
    if smallest and others:
        yield (
            f"scheduler.eta_min={smallest}: is one lr for all weights, and {others[0]} gives some their own; "
            "scheduler=warmup_cosine has final_lr_factor instead"
        )


def _init_source(config: dict[str, Any]) -> Iterator[str]:
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


def _lr_range(config: dict[str, Any]) -> Iterator[str]:
    bounds = config.get("lr_find")
    if bounds and bounds["max_lr"] <= bounds["min_lr"]:
        yield f"lr_find.max_lr={bounds['max_lr']}: must be above lr_find.min_lr={bounds['min_lr']}"


COMBINATIONS: tuple[Callable[[dict[str, Any]], Iterator[str]], ...] = (
    _measured,
    _monitor,
    _folds,
    _classes,
    _lbfgs,
    _module,
    _average,
    _processes,
    _graph,
    _sync_batchnorm,
    _one_lr,
    _nesterov,
    _momentum_cycle,
    device,
    loggers,
    directories,
    own_data,
    _init,
    _optimizer_groups,
    _init_source,
    _lr_range,
)
