"""Names that stored configs of version 0.1 have for what lies elsewhere since 0.2, so that old runs and sweeps load."""

import copy
from typing import Any

# The template's package. A project that was made of it has another name, and reads the template's runs all the same.
ORIGIN = "lithydra"  # kept by make project
PACKAGE = __name__.partition(".")[0]
# By the module of version 0.1, that of today. An entry may go with the version that no longer reads runs of 0.1.
MOVED = {
    "lithydra.augmentations": "lithydra.augmentations.transforms",
    "lithydra.schedulers": "lithydra.schedules",
    "lithydra.mlflow_logger": "lithydra.callbacks.mlflow_logger",
    "lithydra.callbacks.summary": "lithydra.callbacks.model_summary",
    "lithydra.callbacks.report_to_trial": "lithydra.search.report_to_trial",
    "lithydra.data.mnist": "lithydra.data.torchvision_data",
    "lithydra.data.fashion_mnist": "lithydra.data.torchvision_data",
    "lithydra.data.cifar10": "lithydra.data.torchvision_data",
    "lithydra.data.cifar100": "lithydra.data.torchvision_data",
}
CROSS_ENTROPY = {"_target_": "torch.nn.CrossEntropyLoss"}
# What there was no choice of.
ADDED = {
    "method": {"_target_": "lithydra.methods.supervised.Supervised"},
    "metrics": {"acc": {"_target_": "torchmetrics.classification.MulticlassAccuracy", "average": "micro"}},
    "module": {},
    "average": {},
    "optimizer_groups": {},
    "tta": "none",
    "train_metrics": False,
}


def with_moved_names(config: Any) -> Any:
    """`config`, as it was read from a file, with the names of today at each `_target_`; it is changed in place.

    A group of version 0.1 whose choice was `none` had a `_target_` of null; today it is empty. Its augmentation was one
    node, today there is a node for each. Its cross-entropy was torch's; today's gives the same numbers.
    """
    stack, seen = [config], set()
    while stack:
        node = stack.pop()
        if not isinstance(node, (dict, list)) or id(node) in seen:  # YAML can refer to what it stands in
            continue
        seen.add(id(node))
        if isinstance(node, dict) and node.get("_target_", "") is None:
            node.clear()
        elif isinstance(node, dict) and isinstance(target := node.get("_target_"), str):
            module, _, name = target.rpartition(".")
            if module.startswith(f"{ORIGIN}."):
                module = PACKAGE + module.removeprefix(ORIGIN)
            node["_target_"] = f"{MOVED.get(module, module)}.{name}" if module else target
        stack += node.values() if isinstance(node, dict) else node
    if isinstance(config, dict) and "model" in config:
        if "method" not in config:
            _rewrite(config)
        for key, value in ADDED.items():
            config.setdefault(key, copy.deepcopy(value))
        if isinstance(accelerator := config.get("accelerator"), dict):
            accelerator.setdefault("threads", "auto")
    return config


def _rewrite(config: dict[str, Any]) -> None:
    """What version 0.1 said in another way, as it is said today."""
    augmentation, loss = config.get("augmentation"), config.get("loss")
    if isinstance(augmentation, dict) and isinstance(target := augmentation.get("_target_"), str):
        config["augmentation"] = {target.rpartition(".")[2]: augmentation}
    if isinstance(loss, dict) and loss == {"label_smoothing": loss.get("label_smoothing"), **CROSS_ENTROPY}:
        loss |= {"_target_": "lithydra.losses.CrossEntropy", "class_weights": None}
