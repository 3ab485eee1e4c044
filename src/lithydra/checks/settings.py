"""What each setting may be: one rule for each setting of the program, and for each argument of a class that ships.

A setting that a class takes is known by that class, never by its name alone: `hidden` of a person's own net is
nobody's business but that net's.
"""

from typing import Any

from lithydra.checks.rules import (
    COUNT,
    FLAG,
    FRACTION,
    NOT_NEGATIVE,
    NULL,
    ODD,
    PATH,
    POSITIVE,
    PROBABILITY,
    SEED,
    TEXT,
    WHOLE,
    AnyOf,
    Choice,
    DirectoryName,
    Group,
    ListOf,
    Metric,
    Number,
    optional,
)

EARLY_STOPPING = ("lithydra.callbacks.early_stopping.EarlyStopping", "lightning.pytorch.callbacks.EarlyStopping")
METRIC = Metric()

_BETTER = Choice(("min", "max"))
_BATCHES = AnyOf((COUNT, Number(above=0, most=1)))
_LENGTH = AnyOf((COUNT, Choice(("total",))))  # of a schedule

# The settings that the program itself reads, by key. A config that lacks one is refused.
NEEDED: dict[str, Any] = {
    "seed": SEED,
    "lr": POSITIVE,
    "compile": FLAG,
    "test": FLAG,
    "run": optional(PATH),
    "resume": optional(PATH),
    "resume_anyway": FLAG,
    "trust": ListOf(TEXT),
    "paths": Group(),
    "paths.data": PATH,
    "paths.outputs": PATH,
    "paths.runs": PATH,
    "paths.sweeps": PATH,
    "monitor": Group(),
    "monitor.metric": METRIC,
    "monitor.mode": _BETTER,
    "checkpoint": Group(),
    "checkpoint.every_n_steps": optional(COUNT),
    "checkpoint.every_seconds": optional(POSITIVE),
    "init": Group(),
    "init.from": optional(PATH),
    "init.freeze": AnyOf((Choice(("none", "backbone")), ListOf(TEXT, min_length=1))),
    "init.head": Choice(("auto", "keep", "replace")),
    "init.backbone_lr_factor": POSITIVE,
    "sweep": Group(),
    "sweep.name": optional(DirectoryName()),
    "sweep.n_jobs": AnyOf((COUNT, Choice(("auto",)))),
    "sweep.on_error": Choice(("continue", "stop")),
    "sweep.retry": FLAG,
    "sweep.fresh": FLAG,
    "sweep.job": optional(TEXT),
    "accelerator": Group(),
    "accelerator.channels_last": FLAG,
    "accelerator.matmul_precision": Choice(("highest", "high", "medium")),
    "trainer": Group(),
    "trainer.max_epochs": COUNT,
    "trainer.max_steps": AnyOf((COUNT, Choice((-1,)))),
    "trainer.precision": Choice(
        ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true", "32", "bf16", "16", "64", 32, 16, 64)
    ),
    "trainer.gradient_clip_val": optional(POSITIVE),
    "trainer.gradient_clip_algorithm": Choice(("norm", "value")),
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.steps_per_execution": AnyOf((COUNT, Choice(("auto",)))),
    "trainer.log_every_n_steps": COUNT,
    "trainer.devices": AnyOf((Number(least=1, most=1024, whole=True), Choice((-1, "auto")), ListOf(WHOLE, 1))),
    "trainer.num_nodes": Number(least=1, most=65536, whole=True),
    # What starts processes as copies of this one (ddp_spawn, ddp_fork) cannot pass a run on to them.
    "trainer.strategy": Choice(("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")),
    "trainer.accelerator": Choice(("auto", "cpu", "gpu", "cuda", "mps", "tpu")),
    "data": Group(),
    "data._target_": TEXT,
    "normalization": Group(),
    "normalization._target_": TEXT,
    "augmentation": Group(),
    "model": Group(),
    "model._target_": TEXT,
    "loss": Group(),
    "loss._target_": TEXT,
    "metrics": Group(),
    "method": Group(),
    "method._target_": TEXT,
    "average": Group(),
    "tta": Choice(("none", "flip", "flip_shift")),
    "optimizer": Group(),
    "optimizer._target_": TEXT,
    "optimizer._partial_": Choice((True,)),
    "optimizer_groups": Group(),
    "scheduler": Group(),
    "regularizer": Group(),
    "callbacks": Group(),
    "logger": Group(),
}

# Those that a config may lack: a data set's (conf/data/_base.yaml), other flags of Lightning's Trainer, lr_find's.
OPTIONAL: dict[str, Any] = {
    "data.name": TEXT,
    "data.batch_size": COUNT,
    "data.eval_batch_size": COUNT,
    "data.val_fraction": FRACTION,
    "data.num_folds": optional(Number(least=2, whole=True)),
    "data.fold": WHOLE,
    "data.limit": AnyOf((NULL, COUNT, Number(above=0, below=1))),
    "data.classes": optional(ListOf(WHOLE, min_length=2)),
    "data.image_size": optional(Number(least=1, most=16384, whole=True)),
    "data.seed": SEED,
    "data.num_workers": Number(least=0, most=1024, whole=True),
    "optimizer.lr": POSITIVE,
    "optimizer_groups.*.parameters": ListOf(TEXT, min_length=1),
    "optimizer_groups.*.lr_factor": POSITIVE,
    "scheduler._target_": optional(TEXT),
    "scheduler._partial_": Choice((True,)),
    "scheduler.interval": Choice(("step", "epoch")),
    "trainer.deterministic": Choice((True, False, "warn")),
    "trainer.enable_model_summary": FLAG,
    "trainer.limit_train_batches": optional(_BATCHES),
    "trainer.limit_val_batches": optional(_BATCHES),
    "trainer.limit_test_batches": optional(_BATCHES),
    "trainer.check_val_every_n_epoch": COUNT,
    "trainer.max_seconds": optional(POSITIVE),
    "trainer.min_epochs": optional(COUNT),
    "trainer.min_steps": optional(COUNT),
    "trainer.fast_dev_run": AnyOf((FLAG, COUNT)),
    "trainer.profiler": Choice((None, "simple", "advanced", "pytorch")),
    "trainer.benchmark": optional(FLAG),
    "trainer.detect_anomaly": FLAG,
    "trainer.inference_mode": FLAG,
    "trainer.sync_batchnorm": FLAG,
    "lr_find": Group(),
    "lr_find.num_steps": Number(least=20, whole=True),
    "lr_find.min_lr": POSITIVE,
    "lr_find.max_lr": POSITIVE,
    "study": AnyOf((NULL, Group())),
    "experiment": AnyOf((NULL, Group())),
}

RULES: dict[str, Any] = {**NEEDED, **OPTIONAL}

# What Hydra itself reads in a node with a `_target_`.
HYDRA: dict[str, Any] = {
    "_target_": TEXT,
    "_partial_": FLAG,
    "_recursive_": FLAG,
    "_convert_": Choice(("none", "partial", "object", "all")),
    "_args_": ListOf(Any),
}

_DROPOUT = {"dropout": FRACTION}
_NORM = {"batch_norm_eps": POSITIVE, "batch_norm_momentum": Number(above=0, most=1)}
_CONVOLUTIONS = {"channels": ListOf(COUNT, min_length=1), "kernel_size": ODD}
_HIDDEN = {"hidden": ListOf(COUNT)}
_FLAG_NORM = {"batch_norm": FLAG, **_NORM}
_WORD = {"activation": TEXT}
_DECAY = {"weight_decay": NOT_NEGATIVE}
_BETAS = {"betas": ListOf(FRACTION, 2, 2), "eps": POSITIVE, **_DECAY}
_ADAM = {**_BETAS, "amsgrad": FLAG}
_EPS_PAIR = ListOf(optional(NOT_NEGATIVE), 2, 2)
_FACTOR = {"gamma": Number(above=0, most=1)}
_BINS = {"bins": Number(least=1, most=100_000, whole=True)}
_IMAGES = {"num_images": COUNT}
_EACH = {"average": Choice(("micro", "macro", "weighted"))}
_PENALTY = {"weight": NOT_NEGATIVE}
_DIR = {"dir": PATH}
_STOPPING = {
    "monitor": METRIC,
    "mode": _BETTER,
    "patience": WHOLE,
    "min_delta": NOT_NEGATIVE,
    "verbose": FLAG,
    "strict": FLAG,
    "check_finite": FLAG,
}
_SAVED = {"save_dir": optional(PATH), "name": AnyOf((Choice((None, "")), PATH)), "version": optional(PATH)}

# The arguments of classes and functions that conf/ names, by `_target_`.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "lithydra.data.digits.Digits": _DIR,
    **{f"lithydra.data.torchvision_data.{name}": _DIR for name in ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100")},
    "lithydra.data.npz.Npz": {
        "path": optional(PATH),
        "class_names": optional(ListOf(AnyOf((TEXT, WHOLE)), min_length=2)),
    },
    "lithydra.data.image_folder.ImageFolder": {
        "path": optional(PATH),
        "channels": Choice((1, 3)),
        "test_fraction": Number(above=0, below=1),
        "memory_limit_gib": NOT_NEGATIVE,
    },
    "lithydra.models.mlp.MLP": {**_HIDDEN, **_WORD, **_FLAG_NORM, **_DROPOUT},
    "lithydra.models.cnn.CNN": {**_CONVOLUTIONS, **_WORD, **_FLAG_NORM, **_DROPOUT},
    "lithydra.models.alexnet.AlexNet": {"channels": ListOf(COUNT, 5, 5), **_HIDDEN, **_WORD, **_DROPOUT},
    "lithydra.models.alexnet.AlexNetImageNet": {"kernel_sizes": ListOf(ODD, 5, 5), **_DROPOUT},
    "lithydra.models.resnet9.ResNet9": {"width": COUNT, **_NORM},
    "lithydra.models.torchvision_net.torchvision_net": {"name": TEXT, "weights": optional(TEXT)},
    "lithydra.models.nearest_mean.NearestMean": {"distance": Choice(("l1", "l2"))},
    "lithydra.losses.CrossEntropy": {
        "label_smoothing": FRACTION,
        "class_weights": AnyOf((NULL, Choice(("balanced",)), ListOf(POSITIVE, min_length=2))),
    },
    "torch.nn.CrossEntropyLoss": {"label_smoothing": FRACTION},  # of runs from before there were class weights
    "torch.optim.SGD": {"momentum": FRACTION, "nesterov": FLAG, **_DECAY},
    "torch.optim.Adam": _ADAM,
    "torch.optim.AdamW": _ADAM,
    "lithydra.optimizers.NAdam": {**_BETAS, "momentum_decay": NOT_NEGATIVE, "decoupled_weight_decay": FLAG},
    "torch.optim.RAdam": {**_BETAS, "decoupled_weight_decay": FLAG},
    "torch.optim.Adafactor": {"beta2_decay": Number(most=0), "eps": _EPS_PAIR, "d": Number(least=1), **_DECAY},
    "lithydra.optimizers.Muon": {**_BETAS, "momentum": FRACTION, "nesterov": FLAG, "ns_steps": COUNT, "matrices": FLAG},
    "torch.optim.RMSprop": {"alpha": FRACTION, "eps": POSITIVE, "momentum": FRACTION, "centered": FLAG, **_DECAY},
    "torch.optim.Adagrad": {
        "lr_decay": NOT_NEGATIVE,
        "initial_accumulator_value": NOT_NEGATIVE,
        "eps": POSITIVE,
        **_DECAY,
    },
    "torch.optim.Adadelta": {"rho": FRACTION, "eps": POSITIVE, **_DECAY},
    "torch.optim.LBFGS": {
        "max_iter": COUNT,
        "history_size": COUNT,
        "tolerance_grad": NOT_NEGATIVE,
        "tolerance_change": NOT_NEGATIVE,
        "line_search_fn": Choice((None, "strong_wolfe")),
    },
    "torch.optim.lr_scheduler.CosineAnnealingLR": {"T_max": _LENGTH, "eta_min": NOT_NEGATIVE},
    "torch.optim.lr_scheduler.ExponentialLR": _FACTOR,
    "torch.optim.lr_scheduler.MultiStepLR": {"milestones": ListOf(COUNT, min_length=1), **_FACTOR},
    "torch.optim.lr_scheduler.StepLR": {"step_size": COUNT, **_FACTOR},
    "torch.optim.lr_scheduler.OneCycleLR": {
        "max_lr": POSITIVE,
        "total_steps": _LENGTH,
        "pct_start": Number(above=0, below=1),
        "anneal_strategy": Choice(("cos", "linear")),
        "div_factor": POSITIVE,
        "final_div_factor": POSITIVE,
        "cycle_momentum": FLAG,
    },
    "torch.optim.lr_scheduler.ReduceLROnPlateau": {
        "mode": _BETTER,
        "factor": Number(above=0, below=1),
        "patience": WHOLE,
        "threshold": NOT_NEGATIVE,
        "threshold_mode": Choice(("rel", "abs")),
        "cooldown": WHOLE,
        "min_lr": NOT_NEGATIVE,
    },
    "lithydra.schedules.warmup_cosine": {
        "total_steps": _LENGTH,
        "warmup_fraction": FRACTION,
        "final_lr_factor": PROBABILITY,
    },
    "lithydra.augmentations.transforms.AlternatingFlip": {"seed": SEED},
    "lithydra.methods.distillation.Distillation": {"teacher": PATH, "temperature": POSITIVE, "alpha": PROBABILITY},
    "lithydra.methods.adversarial.Adversarial": {
        "epsilon": Number(above=0, most=1),
        "steps": COUNT,
        "step_size": optional(Number(above=0, most=1)),
        "random_start": FLAG,
        "trained": FLAG,
    },
    "lithydra.methods.simclr.SimCLR": {"temperature": POSITIVE, "hidden": COUNT, "dim": COUNT},
    "lithydra.training.averaging.EMA": {"decay": FRACTION, "warmup": FLAG},
    "lithydra.training.averaging.SWA": {"start": FRACTION, "num_images": COUNT},
    "lithydra.training.averaging.ScheduleFree": {"momentum": FRACTION},
    "lithydra.training.averaging.Lookahead": {"steps": COUNT, "alpha": Number(above=0, most=1)},
    **{f"torchmetrics.classification.Multiclass{name}": _EACH for name in ("F1Score", "Precision", "Recall")},
    "torchmetrics.classification.MulticlassAUROC": {"average": Choice(("macro", "weighted"))},
    "torchmetrics.classification.MulticlassAccuracy": {**_EACH, "top_k": COUNT},
    "torchmetrics.classification.MulticlassCalibrationError": {"n_bins": COUNT, "norm": Choice(("l1", "l2", "max"))},
    "lithydra.regularizers.l1": _PENALTY,
    "lithydra.regularizers.l2": _PENALTY,
    **dict.fromkeys(EARLY_STOPPING, _STOPPING),
    "lithydra.callbacks.progress.EpochProgress": {"refresh_seconds": POSITIVE},
    "lithydra.callbacks.histograms.ParameterHistograms": {**_BINS, **_IMAGES},
    "lithydra.callbacks.histograms.ActivationHistograms": {**_BINS, **_IMAGES},
    "lithydra.callbacks.histograms.GradientHistograms": {**_BINS, **_IMAGES},
    "lithydra.callbacks.layer_statistics.LayerStatistics": _IMAGES,
    "lightning.pytorch.loggers.TensorBoardLogger": {**_SAVED, "default_hp_metric": FLAG, "log_graph": FLAG},
    "lightning.pytorch.loggers.CSVLogger": {**_SAVED, "flush_logs_every_n_steps": COUNT},
}
