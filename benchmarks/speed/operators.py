"""Where a training step's time goes, by operator: the bare loop under torch's profiler, in fp32 or in bf16."""

import torch
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from lithydra.data.memory import keep_freed_memory

from .bare import Images
from .result import write_result
from .task import Task, read_task
from .workloads import LEARNING_RATE

WARM_UP, STEPS = 10, 20
SHOWN = {
    "convolution, backward": ("aten::convolution_backward",),
    "convolution": ("aten::mkldnn_convolution", "aten::cudnn_convolution"),
    "max-pool, backward": ("aten::max_pool2d_with_indices_backward", "aten::fill_"),
    "max-pool": ("aten::max_pool2d_with_indices",),
    "ReLU and its backward": ("aten::clamp_min", "aten::threshold_backward"),
}


def main(task: Task, bf16: bool) -> None:
    keep_freed_memory()
    net = task.net().to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
    images = Images(torch.from_numpy(task.x_train), torch.from_numpy(task.y_train), task.device, channels_last=True)
    rows = torch.from_numpy(task.train_indices[: task.workload.batch_size]).to(task.device)

    def step() -> None:
        pixels, labels = images.batch(rows)
        with torch.autocast(task.device.type, dtype=torch.bfloat16, enabled=bf16):
            loss = cross_entropy(net(pixels), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(WARM_UP):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(STEPS):
            step()
    times = {event.key: event.self_cpu_time_total / 1000 / STEPS for event in profiler.key_averages()}
    milliseconds = {name: sum(times.get(key, 0.0) for key in keys) for name, keys in SHOWN.items()}
    write_result(milliseconds={**milliseconds, "all": sum(times.values())})


if __name__ == "__main__":
    task = read_task()
    main(task, bf16=task.accelerator.endswith("_bf16"))
