"""Settings that promise 10 refuses, one command line each."""

# The last setting of each line is the one that the message must name.
BAD = """
seed=1.5
seed=null
seed=-1
seed=abc
seed=4294967296
seed=true
lr=0
lr=-1
lr=inf
lr=nan
lr='0.001'
lr=null
lr=abc
lr=true
lr=[0.1]
compile=maybe
test=1
run=''
resume=''
monitor.metric=val/f1
monitor.metric=val_acc
monitor.mode=min
monitor.mode=up
checkpoint.every_n_steps=0
checkpoint.every_n_steps=1.5
checkpoint.every_seconds=-1
data.batch_size=0
data.batch_size=1.5
data.batch_size=-16
data.eval_batch_size=0
data.val_fraction=1.5
data.val_fraction=1.0
data.val_fraction=-0.1
data.val_fraction=null
data.num_folds=1
data.num_folds=2.5
data.num_folds=5 data.fold=5
data.fold=1
data.fold=-1
data.limit=0
data.limit=-5
data.limit=1.5
data.limit=all
data.classes=[]
data.classes=[3]
data.classes=[2,2]
data.classes=[-1,2]
data.classes=[a,b]
data.image_size=0
data.image_size=8.5
data.num_workers=-1
data.seed=1.5
data.dir=null
data=image_folder data.channels=4
data=image_folder data.test_fraction=1
data=image_folder data.memory_limit_gib=-1
data=npz data.path=3
data=image_folder data.path=. data.image_size=null
model.hidden=[0]
model.hidden=[-5]
model.hidden=[1.5]
model.hidden=100
model.hidden=null
model.dropout=1
model.dropout=-0.1
model.batch_norm=maybe
model.batch_norm_eps=0
model.batch_norm_momentum=2
model=cnn model.channels=[]
model=cnn model.channels=[0]
model=cnn model.kernel_size=0
model=cnn model.kernel_size=4
model=alexnet model.channels=[4,4]
model=alexnet_imagenet model.kernel_sizes=[11,5,3,5,4]
model=nearest_mean model.distance=l3
model=resnet9 model.width=0
loss.label_smoothing=1
loss.label_smoothing=-0.1
loss.class_weights=balance
loss.class_weights=2
loss.class_weights=[1]
loss.class_weights=[1,0]
loss.class_weights=[1,abc]
optimizer.lr=-1
optimizer.lr=0.5
scheduler=onecycle scheduler.max_lr=0.5
optimizer.eps=0
optimizer.betas=[0.9]
optimizer.betas=[0.9,1.0]
optimizer.betas=[0.9,0.99,0.999]
optimizer.betas=0.9
optimizer.amsgrad=maybe
optimizer=sgd optimizer.momentum=1.5
optimizer=sgd optimizer.momentum=-0.1
optimizer=sgd optimizer.nesterov=true
optimizer=sgd optimizer.weight_decay=-1
optimizer=adadelta optimizer.rho=1.5
optimizer=nadam optimizer.momentum_decay=-1
optimizer=radam optimizer.decoupled_weight_decay=1
optimizer=adafactor optimizer.beta2_decay=0.5
optimizer=adafactor optimizer.eps=[0.1]
optimizer=adafactor optimizer.d=0.5
optimizer=muon optimizer.ns_steps=0
optimizer=muon optimizer.momentum=1
optimizer=lbfgs optimizer_groups=no_decay
optimizer_groups=no_decay optimizer_groups.no_decay.weight_decay=-1
optimizer_groups=no_decay optimizer_groups.no_decay.parameters=biases
optimizer_groups=no_decay optimizer_groups.no_decay.parameters=[]
optimizer_groups=no_decay +optimizer_groups.no_decay.lr_factor=-1
optimizer_groups=no_decay +optimizer_groups.no_decay.lr=0.1
+optimizer_groups.mine={lr_factor:0.1}
+optimizer_groups.mine=1
optimizer_groups=no_decay +optimizer_groups.no_decay.lr_factor=0.5 scheduler=cosine scheduler.eta_min=1e-5
optimizer=rmsprop optimizer.alpha=2
optimizer=rmsprop optimizer.alpha=-1
optimizer=rmsprop optimizer.centered=7
optimizer=adagrad optimizer.lr_decay=-1
optimizer=adagrad optimizer.initial_accumulator_value=-1
optimizer=lbfgs optimizer.max_iter=0
optimizer=lbfgs optimizer.history_size=0
optimizer=lbfgs optimizer.line_search_fn=foo
optimizer=lbfgs optimizer.tolerance_grad=-1
optimizer=lbfgs optimizer.tolerance_change=abc
optimizer=lbfgs trainer.precision=bf16-mixed
optimizer=lbfgs trainer.gradient_clip_val=1
accelerator=ddp_cpu optimizer=lbfgs
trainer.num_nodes=2 optimizer=lbfgs
accelerator=ddp_cpu trainer.strategy=ddp_spawn
accelerator=ddp_cpu trainer.strategy=ddp_fork
optimizer=lbfgs trainer.accumulate_grad_batches=2
scheduler=step scheduler.gamma=-1
scheduler=step scheduler.gamma=0
scheduler=step scheduler.step_size=0
scheduler=step scheduler.interval=batch
scheduler=exponential scheduler.gamma=1.5
scheduler=multistep scheduler.milestones=[]
scheduler=multistep scheduler.milestones=[-1]
scheduler=multistep scheduler.milestones=10
scheduler=cosine scheduler.T_max=0
scheduler=cosine scheduler.T_max=-3
scheduler=cosine scheduler.T_max=all
scheduler=cosine scheduler.eta_min=-1
scheduler=plateau scheduler.factor=1
scheduler=plateau scheduler.patience=-1
scheduler=plateau scheduler.threshold=-1
scheduler=plateau scheduler.threshold_mode=foo
scheduler=plateau scheduler.cooldown=-1
scheduler=plateau scheduler.min_lr=-1
scheduler=plateau scheduler.interval=step
scheduler=plateau scheduler.mode=foo
scheduler=plateau scheduler.mode=min
scheduler=plateau data.val_fraction=0
scheduler=warmup_cosine scheduler.warmup_fraction=1.5
scheduler=warmup_cosine scheduler.final_lr_factor=2
scheduler=warmup_cosine scheduler.total_steps=0
scheduler=onecycle scheduler.pct_start=0
scheduler=onecycle scheduler.max_lr=0
scheduler=onecycle scheduler.div_factor=0
scheduler=onecycle scheduler.final_div_factor=-1
scheduler=onecycle scheduler.anneal_strategy=foo
scheduler=onecycle scheduler.cycle_momentum=maybe
scheduler=onecycle optimizer=adagrad scheduler.cycle_momentum=true
regularizer=l1 regularizer.l1.weight=-1
regularizer=l2 regularizer.l2.weight=nan
regularizer=elastic_net regularizer.l2.weight=-0.1
callbacks=early_stopping callbacks.early_stopping.patience=-1
callbacks=early_stopping callbacks.early_stopping.min_delta=-1
callbacks=early_stopping callbacks.early_stopping.monitor=val/f1
callbacks=early_stopping callbacks.early_stopping.mode=min
callbacks=early_stopping data.val_fraction=0
callbacks.progress_bar.refresh_seconds=0
accelerator.channels_last=maybe
accelerator.matmul_precision=exact
trainer.max_epochs=0
trainer.max_epochs=-1
trainer.max_epochs=abc
trainer.max_epochs=2.5
trainer.max_epochs=null
trainer.max_steps=0
trainer.max_steps=-2
trainer.max_steps=1.5
trainer.max_steps=null
trainer.precision=8
trainer.precision=bf16_mixed
trainer.precision=16
trainer.precision=16-mixed
trainer.precision=16-true
trainer.gradient_clip_val=-1
trainer.gradient_clip_val=0
trainer.gradient_clip_val=nan
trainer.gradient_clip_algorithm=foo
trainer.accumulate_grad_batches=0
trainer.accumulate_grad_batches=1.5
trainer.steps_per_execution=0
trainer.steps_per_execution=fast
trainer.log_every_n_steps=-1
trainer.log_every_n_steps=0
trainer.devices=0
trainer.devices=-2
trainer.devices=[]
trainer.devices=two
trainer.num_nodes=0
trainer.accelerator=quantum
trainer.deterministic=maybe
trainer.enable_model_summary=7
trainer.limit_train_batches=0
trainer.limit_train_batches=1.5
trainer.limit_train_batches=-1
trainer.limit_val_batches=2.5
trainer.limit_test_batches=-1
trainer.min_epochs=0
trainer.min_steps=-1
trainer.check_val_every_n_epoch=0
trainer.fast_dev_run=-1
trainer.fast_dev_run=maybe
trainer.benchmark=maybe
trainer.inference_mode=null
trainer.detect_anomaly=1
trainer.profiler=fast
trainer.sync_batchnorm=true
accelerator=mps
+momentum=0.9
+max_epochs=3
paths.runs=null
paths.data=null
paths.outputs=null
resume=b run=a
sweep.name=''
init.from=''
init.from=outputs/runs/nowhere
init.from=torchvision init.freeze=head
init.from=torchvision init.freeze=[]
init.from=torchvision init.freeze=features
init.freeze=backbone
init.freeze=[features.*]
init.head=new
init.head=replace
init.backbone_lr_factor=0
init.backbone_lr_factor=-1
init.from=torchvision init.freeze=backbone init.backbone_lr_factor=0.1
init.from=torchvision optimizer=lbfgs init.backbone_lr_factor=0.1
init.from=torchvision init.backbone_lr_factor=0.1 scheduler=cosine scheduler.eta_min=1e-5
data.batch_size=${seed}
checkpoint.every_n_steps=${seed}
regularizer=l2 regularizer.l2.weight=${trainer.max_steps}
seed=5 scheduler=step scheduler.gamma=${seed}
lr=${oc.env:NUMBER}
data.batch_size=${oc.env:NUMBER}
test=${oc.env:FLAG}
compile=${oc.env:FLAG}
paths.outputs=${oc.env:EMPTY}
regularizer=l1 regularizer.l1.weight=99999999999999999999
trainer.max_epochs=99999999999999999999
trainer.max_epochs={a:1}
trainer.gradient_clip_algorithm={a:1}
trainer.strategy=null
data.image_size=1000000
model._target_=null
model._target_=1
optimizer._convert_=banana
optimizer._partial_=false
test={}
monitor=banana
checkpoint=null
init=[]
logger.tensorboard.name=1
+sweep.new=1
data=npz data.class_names=cat
"""
