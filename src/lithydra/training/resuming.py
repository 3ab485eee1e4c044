"""The config that a run resumes with: its own, and of the command line only what may change."""

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lithydra.checks.combinations import ONE_CYCLE
from lithydra.checks.config import check
from lithydra.errors import ConfigError
from lithydra.overrides import bare
from lithydra.run.config import FOLLOWS, flatten, frozen, select, trainable
from lithydra.run.directory import RunDir
from lithydra.training.repair import stored_config

# What may differ: how long to train, where, and what is shown or saved. Any prefix of a dotted key.
MAY_CHANGE = (
    "resume",
    "resume_anyway",
    "trust",
    "run",
    "test",
    "paths",
    "sweep",
    "logger",
    "callbacks.progress_bar",
    "callbacks.model_summary",
    "callbacks.report_to_trial",
    "callbacks.plots",
    "callbacks.parameter_histograms",
    "callbacks.activation_histograms",
    "callbacks.gradient_histograms",
    "checkpoint",
    "data.dir",
    "data.num_workers",
    "data.eval_batch_size",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.steps_per_execution",
    "trainer.log_every_n_steps",
    "trainer.accelerator",
    "trainer.devices",
    "accelerator",
)

# What not even `resume_anyway` changes: a checkpoint's weights and its place in the data mean nothing elsewhere.
NEVER_CHANGE = (
    *("seed", "data", "normalization", "model", "module", "method", "average", "init"),
    *("optimizer._target_", "optimizer_groups"),  # by which an optimizer's state is laid out
)

# Groups whose files write outside their own node, and where; and those that may write anywhere.
WRITES_TO = {
    "accelerator": ("trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.precision"),
    "optimizer": ("lr",),
}
# Callbacks that end a run: like `trainer.max_epochs`, their settings say how long to train.
STOPPERS = (".EarlyStopping", ".Timer")
LENGTH = ("trainer.max_epochs", "trainer.max_steps")
RECIPES = ("experiment", "debug", "study")

UNLIMITED = -1  # of trainer.max_steps
ABSENT = "nothing"  # how a setting is shown that one of two configs does not have


def resumed(
    run: RunDir, composed: DictConfig, overrides: list[str], choices: Mapping[str, str] | None = None
) -> DictConfig:
    """The run's own config with the command line's changes.

    Args:
        composed: The config that the command line gives by itself; only keys that `overrides` name are read from it.
        overrides: The command line, as `group=choice` and `key=value`.
        choices: The option that it takes in each group, as Hydra tells it.

    Raises:
        ConfigError: The command line changes what would make it another run, and `resume_anyway` is not set; or the
            config does not pass `check`.
    """
    stored = stored_config(run)
    given = frozen(composed)
    keys = _named(run, stored, given, overrides)
    refuse_changes(run, stored, given, keys, anyway=composed.resume_anyway)
    config = DictConfig({**given, **stored})  # a setting that is newer than the run has its default
    for key in keys:
        OmegaConf.update(config, key, select(given, key), merge=False, force_add=True)
    _follow(config, stored, given, keys)
    config = trainable(OmegaConf.to_container(config), f"resume={run.path}", given, composed)
    for key in ("run", "resume", "resume_anyway", "trust"):
        config[key] = composed[key]
    check(config, choices)
    _refuse_new_length(stored, config)
    refuse_finished(run, stored, config)
    return config


def _named(run: RunDir, stored: dict[str, Any], given: dict[str, Any], overrides: list[str]) -> list[str]:
    """The keys that a command line sets, by themselves or through another."""
    keys: list[str] = []
    names_scheduler = {"scheduler", "scheduler._target_"} & set(map(bare, overrides))
    scheduler = select(given if names_scheduler else stored, "scheduler._target_")
    second_lr = ("optimizer.lr", *(["scheduler.max_lr"] if scheduler == ONE_CYCLE else []))
    for override in overrides:
        key = override.lstrip("+~").split("=")[0].split("@")[0]
        if key in RECIPES:
            raise ConfigError(
                f"resume={run.path}: goes on with its own config; give the settings that {key}= stands for"
            )
        if key in second_lr:
            raise ConfigError(f"{override}: there is one learning rate; say lr={override.partition('=')[2]} instead")
        if override.startswith("~") and "." in key:
            key = key.rpartition(".")[0]  # what is gone shows in what is left
        if key.split(".")[0] == "hydra":
            continue
        followers = [place for place in FOLLOWS.get(key, ()) if select(stored, place) == select(stored, key)]
        keys += [key, *WRITES_TO.get(key, ()), *followers]
    return keys


def _follow(config: DictConfig, stored: dict[str, Any], given: dict[str, Any], keys: list[str]) -> None:
    """What has its value from another setting has that of `config`: a new schedule goes to the lr of the run."""
    for source, places in FOLLOWS.items():
        for place in places:
            origin = given if any(_below(place, key) for key in keys) else stored
            value = select(origin, place)
            if place not in keys and value is not None and value == select(origin, source):
                OmegaConf.update(config, place, select(config, source))


def refuse_changes(
    run: RunDir, before: dict[str, Any], after: dict[str, Any], keys: Iterable[str], *, anyway: bool
) -> None:
    """Raise ConfigError with every setting below `keys` in which two configs differ and may not."""
    old, new = ({leaf: value for leaf, value in flatten(config) if value != {}} for config in (before, after))
    leaves = sorted(leaf for leaf in {**old, **new} if any(_below(leaf, key) for key in keys))
    changed = [leaf for leaf in leaves if old.get(leaf, ABSENT) != new.get(leaf, ABSENT)]
    may_change = (*MAY_CHANGE, *stoppers(before), *stoppers(after))
    forbidden = [leaf for leaf in changed if not any(_below(leaf, key) for key in may_change)]
    never = [leaf for leaf in forbidden if any(_below(leaf, key) for key in NEVER_CHANGE)]
    refused = never if anyway else forbidden
    if refused:
        told = "; ".join(f"{leaf} was {old.get(leaf, ABSENT)}, given {new.get(leaf, ABSENT)}" for leaf in refused)
        advice = "train anew to change this" if never else "resume_anyway=true takes the change"
        raise ConfigError(f"resume={run.path}: another run: {told}. {advice[0].upper()}{advice[1:]}")


def _below(leaf: str, key: str) -> bool:
    return leaf == key or leaf.startswith(f"{key}.")


def stoppers(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The callbacks that end a run, by their keys."""
    nodes = {f"callbacks.{name}": node for name, node in (config.get("callbacks") or {}).items()}
    return {key: node for key, node in nodes.items() if str((node or {}).get("_target_")).endswith(STOPPERS)}


def laid_out(config: Mapping[str, Any]) -> str | None:
    """The setting of the schedule, or of the average, that goes by the length of the run."""
    average = "average.start" if "start" in (config.get("average") or {}) else None
    return next((key for key, value in flatten(config["scheduler"], "scheduler") if value == "total"), average)


def _refuse_new_length(stored: dict[str, Any], config: DictConfig) -> None:
    """A schedule that was laid out over a run's length cannot change with it."""
    for key in ("trainer.max_epochs", "trainer.max_steps"):
        before, now = select(stored, key), OmegaConf.select(config, key)
        if before != now and isinstance(now, int) and (planned := laid_out(stored)):
            raise ConfigError(f"{key}={now}: {planned} was laid out for {before}; train anew instead")


def refuse_shorter(config: DictConfig, epochs: int, steps: int) -> None:
    """A run may end earlier than was first said, but not before what it has trained already."""
    for key, done in (("max_epochs", epochs), ("max_steps", steps)):
        if UNLIMITED != config.trainer[key] < done:
            raise ConfigError(f"trainer.{key}={config.trainer[key]}: the run is in {key[4:-1]} {done} already")


def refuse_finished(run: RunDir, stored: dict[str, Any], config: DictConfig) -> None:
    """Raise ConfigError where nothing is left to train, and say what would be."""
    trainer = config.trainer
    try:
        status = run.read_status()
    except ConfigError:  # set aside once the directory is owned
        status = {}
    epochs, steps = status.get("epoch", 0), status.get("step", 0)
    left = epochs < trainer.max_epochs and (trainer.max_steps == UNLIMITED or steps < trainer.max_steps)
    keys = (*LENGTH, *stoppers(stored), *stoppers(OmegaConf.to_container(config)))  # pyright: ignore
    keys += ("callbacks",) if config.resume_anyway else ()  # one that ends a run may have any name
    longer = status.get("more_epochs") == "" or any(select(stored, k) != OmegaConf.select(config, k) for k in keys)
    if status.get("state") == "finished" and not (left and longer and not trainer.get("fast_dev_run")):
        why = f" ({status['stopped']})" if "stopped" in status else ""
        hint = f"{status.get('more_epochs') or f'trainer.max_epochs={2 * max(1, epochs)}'} would go on"
        if "no_more_epochs" in status:
            hint = f"{status['no_more_epochs']}; train anew for more"
        raise ConfigError(f"resume={run.path}: finished after {epochs} epochs{why}; {hint}")
