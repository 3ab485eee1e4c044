"""Command lines that promise 10 refuses, and what the one line on stderr holds.

The tables hold every item of "inputs that pass silently in a stock Lightning + Hydra app", by the words of that list,
and more. Each test id is the item.
"""

import pytest

# Item: command line of train.py, what the one line on stderr holds. `T/` is the folder of `things`. No torch is needed.
EARLY = {
    "val_fraction 1.5": ("data.val_fraction=1.5", "data.val_fraction=1.5: must be a number at least 0 and below 1"),
    "val_fraction 1.0": ("data.val_fraction=1.0", "data.val_fraction=1.0: must be"),
    "val_fraction -0.1": ("data.val_fraction=-0.1", "data.val_fraction=-0.1: must be"),
    "lr 0": ("lr=0", "lr=0: must be a number above 0"),
    "lr -1": ("lr=-1", "lr=-1: must be"),
    "lr inf": ("lr=inf", "lr=inf: must be"),
    "lr nan": ("lr=nan", "lr=nan: must be"),
    "lr '0.001' as a string": ("lr=\"'0.001'\"", "lr='0.001' (text): must be a number"),
    "negative l1 weight": ("regularizer=l1 regularizer.l1.weight=-1", "regularizer.l1.weight=-1: must be"),
    "negative l2 weight": ("regularizer=l2 regularizer.l2.weight=-0.1", "regularizer.l2.weight=-0.1: must be"),
    "StepLR gamma -1": ("scheduler=step scheduler.gamma=-1", "scheduler.gamma=-1: must be"),
    "cosine T_max -3": ("scheduler=cosine scheduler.T_max=-3", "scheduler.T_max=-3: must be"),
    "cosine T_max 0": ("scheduler=cosine scheduler.T_max=0", "scheduler.T_max=0: must be"),
    "momentum 1.5": ("optimizer=sgd optimizer.momentum=1.5", "optimizer.momentum=1.5: must be"),
    "LBFGS with bf16": ("optimizer=lbfgs trainer.precision=bf16-mixed", "optimizer=lbfgs: needs full precision"),
    "LBFGS with clipping": ("optimizer=lbfgs trainer.gradient_clip_val=1", "trainer.gradient_clip_val=null"),
    "LBFGS in several processes": ("optimizer=lbfgs trainer.devices=2", "optimizer=lbfgs: each process would search"),
    "processes that are copies": ("trainer.strategy=ddp_spawn", "trainer.strategy=ddp_spawn: must be one of auto, ddp"),
    "LBFGS with accumulation": ("optimizer=lbfgs trainer.accumulate_grad_batches=2", "accumulate_grad_batches=1"),
    "gradient_clip_val -1": ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1: must be"),
    "patience -1 of early stopping": (
        "callbacks=early_stopping callbacks.early_stopping.patience=-1",
        "callbacks.early_stopping.patience=-1: must be",
    ),
    "patience -1 of the plateau": ("scheduler=plateau scheduler.patience=-1", "scheduler.patience=-1: must be"),
    "log_every_n_steps -1": ("trainer.log_every_n_steps=-1", "trainer.log_every_n_steps=-1: must be"),
    "seed 1.5": ("seed=1.5", "seed=1.5: must be a whole number"),
    "seed null": ("seed=null", "seed=null: must be a whole number"),
    "seed -1": ("seed=-1", "seed=-1: must be"),
    "num_classes too many": ("+model.num_classes=12", "model.num_classes=12: the data decide it"),
    "num_classes too few": ("+model.num_classes=3", "model.num_classes=3: the data decide it"),
    "class_counts given": ("+loss.class_counts=[1,2]", "loss.class_counts=[1, 2]: the data decide it"),
    "in_shape given": ("+model.in_shape=[1,9,9]", "model.in_shape=[1, 9, 9]: the data decide it"),
    "hidden=[0]": ("model.hidden=[0]", "model.hidden=[0]: must be a list"),
    "mode=min on an accuracy": ("monitor.mode=min", "monitor.mode=min: val/acc is better the higher; use max"),
    "mode=max on a loss": ("monitor.metric=val/loss", "monitor.mode=max: val/loss is better the lower; use min"),
    "a key at the top with +": ("+momentum=0.9 optimizer=sgd", "momentum=0.9: nothing reads a setting of this name"),
    "a key in monitor with +": ("+monitor.mod=min", "monitor.mod=min: nothing reads it"),
    "a key in checkpoint with +": ("+checkpoint.every_n_step=5", "Did you mean every_n_steps?"),
    "a key in accelerator with +": ("+accelerator.precision=16", "accelerator.precision=16: nothing reads it"),
    "a key in paths with +": ("+paths.datas=x", "paths.datas=x: nothing reads it"),
    "a key of a scheduler that is not there": ("+scheduler.gamma=0.5", "there is no scheduler to set"),
    "a key of an augmentation that is not there": (
        "+augmentation.padding=1",
        "augmentation.padding: has no _target_, so there is nothing to set",
    ),
    "a weight of a regularizer that is not there": ("+regularizer.l1.weight=1", "regularizer.l1: has no _target_"),
    "a callback without a class": ("+callbacks.patience=1", "callbacks.patience: has no _target_"),
    "a callback that saves by time": (
        "+callbacks.saver._target_=lightning.pytorch.callbacks.ModelCheckpoint +callbacks.saver.train_time_interval=9",
        "callbacks.saver.train_time_interval: does not work here; use checkpoint.every_seconds",
    ),
    "a logger without a class": ("+logger.name=x", "logger.name: has no _target_"),
    "callbacks in trainer with +": ("+trainer.callbacks=[]", "trainer.callbacks=[]: not taken, the group callbacks"),
    "val_check_interval": ("+trainer.val_check_interval=0.5", "validation follows each epoch"),
    "overfit_batches": ("+trainer.overfit_batches=2", "debug=overfit does this"),
    "precision=16 on CPU": ("trainer.accelerator=cpu trainer.precision=16", "trainer.precision=16: needs a GPU"),
    "resume=last with nothing there": ("resume=last", "resume=last: no such directory"),
    "resume of a folder that is no run": ("resume=T/empty", "not a run directory"),
    "run and resume": ("resume=T/run run=a", "names the run directory already"),
    "resume with another lr": ("resume=T/run lr=0.5", "another run: lr was 0.001, given 0.5"),
    "resume with another batch size": ("resume=T/run data.batch_size=8", "data.batch_size was 16, given 8"),
    "resume with another data set": ("resume=T/run data=mnist", "data.name was digits, given mnist"),
    "resume with another seed": ("resume=T/run seed=1", "seed was 0, given 1"),
    "resume with another scheduler": ("resume=T/run scheduler=step", "scheduler._target_ was nothing, given"),
    "resume with another optimizer": ("resume=T/run optimizer=sgd", "optimizer._target_ was torch.optim.Adam"),
    "resume with another net": ("resume=T/run model=cnn", "model._target_ was lithydra.models.mlp.MLP"),
    "resume deleting what the command line does not have": ("resume=T/run '~regularizer.l2'", "does not exist"),
    "resume with an experiment": ("resume=T/run experiment=cifar10_cnn", "goes on with its own config"),
    "resume with max_epochs already done": ("resume=T/run", "finished after 1 epochs; trainer.max_epochs=2"),
    "resume with fewer max_epochs": ("resume=T/run trainer.max_epochs=0", "trainer.max_epochs=0: must be"),
    "max_epochs=0": ("trainer.max_epochs=0", "trainer.max_epochs=0: must be a whole number at least 1"),
    "max_epochs=abc": ("trainer.max_epochs=abc", "trainer.max_epochs='abc' (text): must be"),
    "limit_train_batches=0": ("trainer.limit_train_batches=0", "trainer.limit_train_batches=0: must be"),
    "accumulate 0": ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0: must be"),
    "two runs in one directory": ("run=T/run", "holds a run already; resume="),
    "optimized metric that is never logged": (
        "monitor.metric=val/f1",
        "monitor.metric=val/f1: not measured; there are train/loss",
    ),
    "plateau without validation": ("scheduler=plateau data.val_fraction=0", "leaves no validation images"),
    "early stopping without validation": ("callbacks=early_stopping data.val_fraction=0", "no validation images"),
    "nesterov without momentum": ("optimizer=sgd optimizer.nesterov=true", "needs optimizer.momentum above 0"),
    "a fold that is not there": ("data.num_folds=5 data.fold=5", "data.fold=5: data.num_folds=5 has folds 0 to 4"),
    "a fold without folds": ("data.fold=1", "data.fold=1: needs data.num_folds"),
    "a class twice": ("data.classes=[2,2]", "data.classes=[2, 2]: names a class twice"),
    "batch_size 0": ("data.batch_size=0", "data.batch_size=0: must be"),
    "dropout 1": ("model.dropout=1", "model.dropout=1: must be"),
    "two nets at once": ("model=[mlp,linear]", "model: takes one choice, model=NAME"),
    "two schedules at once": ("scheduler=[cosine,step]", "scheduler: takes one choice"),
    "a second learning rate": ("optimizer.lr=0.5", "optimizer.lr=0.5: there is one learning rate, lr=0.001; say lr="),
    "a group that is dropped": ("'~scheduler'", "scheduler: is missing; it must be a group of settings"),
    "unknown option": ("model=rsnet18", "Did you mean resnet18?"),
    "unknown option in a list": ("metrics=[acuracy]", "metrics=acuracy: choose one of accuracy, auroc, "),
    "unknown option in a folder": (
        "study=digits/optimzer",
        "study=digits/optimzer: choose one of cifar10/random_search, ",
    ),
    "a net of torchvision": ("model=resnet50", "torchvision's nets are model=torchvision model.name=resnet50"),
    "unknown key": ("optimizer.lrr=1", "optimizer.lrr: no such setting. Did you mean optimizer.lr?"),
    "key of another group": ("max_epochs=3", "Did you mean trainer.max_epochs?"),
    "no value": ("lr", "lr: not of the form key=value"),
    "half a list": ("lr=[", "lr=["),
    "dashes before a setting": ("--lr=0.1", "--lr=0.1: settings have no dashes: lr=0.1"),
    "dashes, and the value behind": (
        "--data.batch_size 32",
        "--data.batch_size: settings have no dashes: data.batch_size=32",
    ),
    "one dash": ("-lr 0.1", "-lr: settings have no dashes: lr=0.1"),
    "dashes within": ("--dry-run", "--dry-run: settings have no dashes: dry_run=VALUE"),
    "interpolation of nothing": ("lr='${nothing}'", "Interpolation key 'nothing' not found"),
    "outputs below a file": ("paths.outputs=T/text.png", "is a file, not a directory"),
    "data folder below a file": ("paths.data=T/text.png/data", "is a file, not a directory"),
    "npz without a path": ("data=npz", "data.path=null: data=npz needs data.path=FILE.npz"),
    "npz that is not there": ("data=npz data.path=nowhere.npz", "data.path=nowhere.npz: no such file"),
    "folder that is not there": ("data=image_folder data.path=nowhere", "data.path=nowhere: no such folder"),
    "GPU where there is none": ("accelerator=gpu", "accelerator=gpu: this machine has no GPU"),
    "GPUs where there is none": (
        "accelerator=ddp",
        "accelerator=ddp: this machine has no GPU; accelerator=cpu or accelerator=ddp_cpu",
    ),
    "resume with two schedulers at once": (
        "resume=T/run scheduler=[cosine,step] resume_anyway=true",
        "scheduler: takes one choice, scheduler=NAME",
    ),
}
# What only torch, or the data, can tell.
LATE = {
    "too few class weights": ("loss.class_weights=[1,2]", "loss.class_weights=[1, 2]: must be one number a class, 10"),
    "resume of a run without a config": (
        "resume=T/torn",
        "config.yaml: not the config of a run",
    ),  # a checkpoint may hold it
    "batch size above the data": ("data.batch_size=2000", "data.batch_size=2000: larger than"),
    "a class that is not there": ("data.classes=[3,12]", "data.classes=[3, 12]: digits has classes 0 to 9"),
    "limit above the data": ("data.limit=2000", "data.limit=2000: digits has"),
    "single-class data": ("data=npz data.path=T/single.npz", "all training images are of class 0"),
    "NaN in data": ("data=npz data.path=T/nan.npz", "has NaN among its pixels"),
    "labels 77 of 10": ("data=npz data.path=T/label77.npz", "y_train goes to 77"),
    "100 labels for 20,000 images": ("data=npz data.path=T/labels.npz", "y_train has 100 labels for 20,000 images"),
    "zeroed images": ("data=npz data.path=T/zeroed.npz", "holds no picture: every pixel is 0"),
    "damaged npz": ("data=npz data.path=T/damaged.npz", "is damaged"),
    "damaged prepared data": ("paths.data=T/damaged_digits", "digits.npz is damaged"),
    "AlexNet on images too small for its pooling": ("model=alexnet_imagenet", "data.image_size=64"),
    "CNN with more poolings than pixels": ("model=cnn model.channels=[8,8,8,8,8]", "model.channels"),
    "empty folder": ("data=image_folder data.path=T/empty", "0 class folders"),
    "empty class folder": ("data=image_folder data.path=T/hollow", "no images in this folder"),
    "text file named .png": ("data=image_folder data.path=T/textual", "text.png: not an image"),
    "unwritable output folder": ("paths.outputs=/proc/nowhere", "cannot be written"),
    "two-class loss for ten classes": ("loss=binary_cross_entropy", "for two classes, not 10"),
    "a key of the model that it has not": ("+model.width=3", "model.width=3: MLP takes in_shape"),
    "a key of the optimizer that it has not": (
        "optimizer=sgd +optimizer.momentun=0.9",
        "optimizer.momentun=0.9: SGD takes params, lr, momentum",
    ),
    "a setting of another scheduler": (
        "scheduler=cosine +scheduler.gamma=0.1",
        "scheduler.gamma=0.1: CosineAnnealingLR takes optimizer, T_max, eta_min, last_epoch. ~scheduler.gamma drops",
    ),
    "a key of a callback that it has not": (
        "callbacks=early_stopping +callbacks.early_stopping.patienc=3",
        "Did you mean patience?",
    ),
    "a key of the trainer that it has not": ("+trainer.epochs=3", "trainer: "),
    "a class that is no class": ("model._target_=lithydra.models.mlp.MPL", "lithydra.models.mlp.MPL"),
    "an activation that is none": ("model.activation=rleu", "model.activation=rleu"),
    "a horizon shorter than the run": ("scheduler=onecycle scheduler.total_steps=10", "shorter than the run"),
    "a mean for three channels of one": ("normalization=z_score normalization.mean=[1,1,1]", "normalization.mean="),
    "limit_train_batches of less than a batch": ("trainer.limit_train_batches=0.001", "limit_train_batches"),
}
EVALUATE_EARLY = {
    "evaluate nothing": ("", "run: must be given"),
    "testing untrained weights": ("run=T/untrained", "has no checkpoint yet"),
    "evaluate: no such checkpoint": ("run=T/run checkpoint=first", "checkpoint=first: must be one of best, last"),
    "evaluate: no such split": ("run=T/run split=tset", "split=tset: must be one of test, val, train. Did you mean"),
    "evaluate: unknown key": ("run=T/run +batch=3", "batch: no such setting"),
    "evaluate: batch size 0": ("run=T/run data=digits data.eval_batch_size=0", "data.eval_batch_size=0: must be"),
    "evaluate: GPU where there is none": ("run=T/run accelerator=gpu", "this machine has no GPU"),
}
EVALUATE_LATE = {
    "evaluating a Fashion-MNIST checkpoint on MNIST": (
        "run=T/fashion data=mnist paths.data=T/both",
        "trained on data set fashion_mnist, and these are mnist",
    ),
    "evaluate: other classes": ("run=T/run_npz data=npz data.path=T/four.npz", "trained on classes ['0', '1', '2']"),
    "evaluate: other size": ("run=T/run_npz data=npz data.path=T/larger.npz", "trained on image shape [1, 8, 8]"),
    "evaluate: other channels": ("run=T/run_npz data=npz data.path=T/color.npz", "trained on image shape [1, 8, 8]"),
    "evaluate: -m": ("-m run=T/run,T/run_npz", "-m: trains many runs"),
    "evaluate: no validation part": ("run=T/run_npz split=val", "the run had no validation part"),
}
# Of train.py, what would be taken without a word, or refused after something was written.
OF_SWEEPS = {
    "sweep over the sweep's name": ("-m sweep.name=a,b", "sweep.name=a,b: a setting of the sweep itself"),
    "sweep over the outputs": ("-m paths.outputs=a,b", "paths.outputs=a,b: a setting of the sweep itself"),
    "sweep over the sweep's job": ("-m sweep.job=a,b", "sweep.job=a,b: a setting of the sweep itself"),
    "search over the outputs": ("-m hydra/sweeper=optuna paths.data=a,b", "paths.data=a,b: a setting of the sweep"),
    "misspelt tag": ("-m hydra/sweeper=optuna lr=tag(lgo,interval(1,2))", "tag lgo: one of log. Did you mean log?"),
    "misspelt tag of a grid": ("-m lr=tag(lgo,choice(0.1,0.2))", "tag lgo: one of log. Did you mean log?"),
    "study without -m": ("study=digits/optimizer lr=0.1", "varies optimizer, seed; -m trains them all"),
    "sweep.name without -m": ("sweep.name=a", "sweep.name=a: of a sweep, which -m starts"),
    "several values without -m": ("optimizer=sgd,adam", "optimizer=sgd,adam: several values; -m trains each"),
    "hydra.sweep.dir": ("-m hydra.sweep.dir=a lr=0.1,0.2", "hydra.sweep.dir: not taken, a sweep lies in paths.sweeps"),
    "hydra.run.dir": ("hydra.run.dir=a", "hydra.run.dir: not taken, run=DIR"),
    "--run -m": ("--run -m lr=0.1,0.2", "--run and -m: one of them at a time"),
    "--cfg job -m": ("--cfg job -m lr=0.1,0.2", "-m and --cfg: one of them at a time"),
    "study narrowed to nothing": ("-m study=digits/optimizer optimizer=sgd lr=0.1 seed=0", "study.verdict[0]"),
    "sweeper of Hydra's": ("-m hydra/sweeper=basic lr=0.1,0.2", "hydra/sweeper=basic: one of grid, optuna"),
    "group that is a number": ("model=1", "model=1: must be the name of a choice, airbench"),
}
PREDICT_EARLY = {
    "predict: no input": ("run=T/run", "input: must be given"),
    "predict: no such input": ("run=T/run input=nowhere.png", "input=nowhere.png: no such file or folder"),
    "predict: top_k 0": ("run=T/run input=T/grey.png top_k=0", "top_k=0: must be"),
    "predict: batch size 0": ("run=T/run input=T/grey.png batch_size=0", "batch_size=0: must be"),
    "predict: untrained": ("run=T/untrained input=T/grey.png", "has no checkpoint yet"),
    "predict: output in no folder": ("run=T/run input=T/grey.png output=no/where.csv", "its folder does not exist"),
}
PREDICT_LATE = {
    "predict: more classes than there are": ("run=T/run input=T/grey.png top_k=11", "the run has 10 classes"),
    "predict: folder without images": ("run=T/run input=T/empty", "no images in this folder"),
    "predict: glob of nothing": ("run=T/run input='T/*.jpg'", "as a glob it matches no file"),
}
# Every script that takes a run, and what is none in the place of {}.
ON_A_RUN = {verb: "run={}" for verb in ("evaluate", "export", "explain", "serve", "reproduce_run")}
ON_A_RUN |= {"predict": "run={} input=T/grey.png", "compare": "T/run {}"}
NO_RUN = {"nowhere": "no such directory", "T/empty": "not a run directory", "T/text.png": "a file, not a directory"}
VERBS = {
    "train": (EARLY | OF_SWEEPS, LATE),
    "evaluate": (EVALUATE_EARLY, EVALUATE_LATE),
    "predict": (PREDICT_EARLY, PREDICT_LATE),
}
CASES = [
    pytest.param(verb, line, message, early, id=item)
    for verb, tables in VERBS.items()
    for table, early in zip(tables, (True, False), strict=True)
    for item, (line, message) in table.items()
] + [
    pytest.param(verb, line.format(name), message, True, id=f"{verb}: {message}")
    for verb, line in ON_A_RUN.items()
    for name, message in NO_RUN.items()
]
FAST = [case for number, case in enumerate(CASES) if case.values[0] != "train" or number % 4 == 0]
