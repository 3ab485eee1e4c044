"""What each argument of a class that ships may be.

A setting that a class takes is known by that class, never by its name alone: `hidden` of a person's own net is
nobody's business but that net's.
"""

from typing import Any

from lithydra.checks.rules import (
    COUNT,
    FLAG,
    FRACTION,
    METRIC,
    MODE,
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
    ListOf,
    Number,
    optional,
)

TENSORBOARD = ("lithydra.callbacks.tensorboard_logger.TensorBoardLogger", "lightning.pytorch.loggers.TensorBoardLogger")
EARLY_STOPPING = ("lithydra.callbacks.early_stopping.EarlyStopping", "lightning.pytorch.callbacks.EarlyStopping")
_LENGTH = AnyOf((COUNT, Choice(("total",))))  # of a schedule

# What Hydra itself reads in a node with a `_target_`.
HYDRA: dict[str, Any] = {
    "_target_": TEXT,
    "_partial_": FLAG,
    "_recursive_": FLAG,
    "_convert_": Choice(("none", "partial", "object", "all")),
    "_args_": ListOf(Any),
}

_DROPOUT = {"dropout": FRACTION}
_NORM_MOMENTUM = Number(above=0, most=1)
_NORM = {"batch_norm_eps": POSITIVE, "batch_norm_momentum": _NORM_MOMENTUM}
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
    "mode": MODE,
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
        "cache_limit_gib": NOT_NEGATIVE,
        **_DIR,
    },
    "lithydra.models.mlp.MLP": {**_HIDDEN, **_WORD, **_FLAG_NORM, **_DROPOUT},
    "lithydra.models.cnn.CNN": {**_CONVOLUTIONS, **_WORD, **_FLAG_NORM, **_DROPOUT},
    "lithydra.models.alexnet.AlexNet": {"channels": ListOf(COUNT, 5, 5), **_HIDDEN, **_WORD, **_DROPOUT},
    "lithydra.models.alexnet.AlexNetImageNet": {"kernel_sizes": ListOf(ODD, 5, 5), **_DROPOUT},
    "lithydra.models.resnet9.ResNet9": {"width": COUNT, **_NORM},
    "lithydra.models.airbench.Airbench": {"widths": ListOf(COUNT, 3, 3), "batch_norm_momentum": _NORM_MOMENTUM},
    "lithydra.models.torchvision_net.torchvision_net": {"name": TEXT, "weights": optional(TEXT)},
    "lithydra.models.nearest_mean.NearestMean": {"distance": Choice(("l1", "l2"))},
    "lithydra.models.autoencoder.Autoencoder": {"hidden": COUNT, "code": COUNT},
    "lithydra.models.gan.GAN": {"noise": COUNT, "hidden": COUNT, "lr": POSITIVE},
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
    "lithydra.optimizers.MuonSGD": {
        **{"momentum": FRACTION, "nesterov": FLAG, "ns_steps": COUNT, "matrices": FLAG},
        **{"sgd_momentum": FRACTION, **_DECAY},
    },
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
    "torch.optim.lr_scheduler.LinearLR": {
        "start_factor": Number(above=0, most=1),
        "end_factor": Number(least=0, most=1),
        "total_iters": _LENGTH,
    },
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
        "mode": MODE,
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
    **{target: {**_SAVED, "default_hp_metric": FLAG, "log_graph": FLAG} for target in TENSORBOARD},
    "lithydra.callbacks.trackio_logger.TrackioLogger": {"name": optional(TEXT), "project": TEXT, "folder": PATH},
    "lightning.pytorch.loggers.CSVLogger": {**_SAVED, "flush_logs_every_n_steps": COUNT},
}
