"""run.html: one file with what a run was, gave, and looks like; opens by double click, also after it was sent."""

import base64
import math
import shlex
from pathlib import Path
from typing import Any

from lithydra.files import write_text
from lithydra.run import class_scores
from lithydra.run.directory import NO_METRICS, RunDir, training_seconds
from lithydra.run.metric_names import by_split, names_of, parts, words
from lithydra.run.rendering import TEMPLATES, duration, render
from lithydra.run.trust import needed_trust

PICTURES = {
    "curves": "Curves",
    "confusion": "Confusion matrix",
    "reliability": "Reliability",
    "mistakes": "Mistakes",
    "samples": "Training images",
    "filters": "First layer",
}
PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "numpy")
SETTINGS = (
    "data",
    "normalization",
    "augmentation",
    "module",
    "model",
    "loss",
    "optimizer",
    "optimizer_groups",
    "scheduler",
    "regularizer",
    "method",
    "average",
)


def write(run: RunDir) -> Path:
    """Make the page of a run from what its directory holds."""
    write_text(run.page, render(TEMPLATES / "run.html.j2", content(run)))
    return run.page


def content(run: RunDir) -> dict[str, Any]:
    status = run.read_status()
    origin = run.origin()
    choices = run.origins()[-1]["choices"]  # a run may go on with others than it began with
    config = run.read_config()
    rows = run.read_metrics()
    metrics: dict[str, float] = status.get("metrics", {})
    pictures = {title: run.plots / f"{name}.png" for name, title in PICTURES.items()}
    return {
        "name": run.path.name,
        "status": status,
        "trained": None if (seconds := training_seconds(rows)) is None else duration(seconds),
        "splits": by_split(metrics),
        "names": names_of(metrics),
        "tile": "acc" if "acc" in names_of(metrics) else parts(config["monitor"]["metric"])[1],
        "words": words,
        "settings": {
            **{group: choices[group] for group in SETTINGS if choices.get(group, "none") != "none"},
            "lr": config["lr"],
            "batch size": config["data"].get("batch_size"),
            "seed": config["seed"],
            "max epochs": config["trainer"]["max_epochs"],
        },
        "data": origin["data"],
        "pictures": {title: _data_uri(path) for title, path in pictures.items() if path.exists()},
        "classes": class_scores.read(run),
        "no_metrics": NO_METRICS,
        "columns": list(rows[0]) if rows else [],
        "rows": rows,
        "commands": commands(run, status),
        "command": run.read_command().strip(),
        "config": run.config.read_text(),
        "environment": {**_environment(origin), **_compute(origin["trainer"], status.get("compute", {}))},
    }


def commands(run: RunDir, status: dict[str, Any]) -> dict[str, str]:
    """What a person may want next, by what it does."""
    path, parent = (shlex.quote(str(path)) for path in (run.path, run.path.parent))
    trust = "".join(f" {word}" for word in needed_trust(run.read_config()))
    more = f"python train.py resume={path} {status.get('more_epochs')}".rstrip() + trust
    return {
        "evaluate": f"python scripts/evaluate.py run={path}{trust}",
        "predict": f"python scripts/predict.py run={path} input=IMAGE{trust}",
        "more epochs": more if "more_epochs" in status else f"none: {status.get('no_more_epochs')}",
        **({"look inside": f"tensorboard --logdir {parent}"} if run.tensorboard.is_dir() else {}),
    }


def _environment(origin: dict[str, Any]) -> dict[str, str]:
    hardware, trainer, git = origin["hardware"], origin["trainer"], origin["git"]
    commit = (git["commit"] or "not in git")[:12] + (" with uncommitted changes" if git["diff"] else "")
    return {
        "code": commit,
        "Python": origin["python"],
        **{name: origin["packages"][name] for name in PACKAGES if name in origin["packages"]},
        "system": hardware["system"],
        "CPU": f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['torch_threads']} threads",
        "GPU": ", ".join(hardware["gpus"]) or "none",
        "device": f"{trainer['device']}, {trainer['precision']}, {trainer['num_processes']} process(es)",
    }


def _compute(trainer: dict[str, Any], spent: dict[str, float]) -> dict[str, str]:
    """What training cost, as far as it is known: of a person's own module it is not."""
    cells: dict[str, str] = {}
    if "parameters" in trainer:
        cells["parameters"] = f"{trainer['parameters']:,}"
    if trainer.get("step_flops"):
        cells["a batch"] = f"{_scaled(trainer['step_flops'])}FLOP"
    if "flops_per_second" in spent:
        share = spent["flops_per_second"] / spent["peak"]
        cells["speed"] = (
            f"{_scaled(spent['flops_per_second'])}FLOP/s, {share:.0%} of the {_scaled(spent['peak'])}FLOP/s that "
            "a product of large matrices reached"
        )
    if seconds := trainer.get("step_seconds"):
        timed = ", ".join(f"{1000 * value:.3g} ms in {precision}" for precision, value in seconds.items())
        cells["a step, timed"] = timed
    if "peak_memory" in spent:
        cells["memory"] = f"{_scaled(spent['peak_memory'])}B at most"
    return cells


def _scaled(value: float) -> str:
    """Three digits and the prefix of a unit, `1.23 G`."""
    prefixes = ("", "k", "M", "G", "T", "P")
    power = min(int(math.log10(max(value, 1)) // 3), len(prefixes) - 1)
    return f"{value / 1000**power:.3g} {prefixes[power]}"


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
