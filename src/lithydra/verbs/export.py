"""Take a run's model elsewhere, as ONNX or torch.export; checked against the run on real test images."""

import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lithydra.checks.output import output_of, writing
from lithydra.errors import LithydraError
from lithydra.training.classifier import Classifier
from lithydra.training.loading import load_classifier, load_data

TOLERANCE = 1e-4  # largest absolute difference of a logit or a probability
TIMED_CALLS, TIMED_SECONDS = 30, 1.0  # at most, whichever comes first
BATCH_SIZE = 256

Runner = Callable[[Tensor], tuple[Tensor, Tensor]]  # images to logits and probabilities, both (B, classes)


class Exported(nn.Module):
    """Images (B, C, H, W) to logits and probabilities; uint8 with preprocessing, else normalized float32."""

    def __init__(self, module: Classifier, preprocessing: bool) -> None:
        super().__init__()
        self.net, self.tta = module.net, module.tta
        self.normalization = module.normalization if preprocessing else nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.tta(self.net, self.normalization(images))
        return logits, Classifier.probabilities(logits)


def export(config: DictConfig) -> dict[str, Any]:
    """Write the model to one file, compare it with the run's, and print difference, accuracy, size and latency.

    Returns:
        The file as `output`, and the figures that were printed.

    Raises:
        ConfigError: No such run or checkpoint.
        LithydraError: The exported model gives other numbers than the run's.
    """
    module = load_classifier(config.run, config.checkpoint, trust=config.trust, weights=config.weights, tta=config.tta)
    model = Exported(module, config.preprocessing).eval().to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    output = output_of("export", config)
    data = load_data(module.record, config.paths.data)
    assert data.test is not None
    positions = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[: config.num_images]
    images, labels = next(data.test.batches([positions]))
    images = images.contiguous()
    if not config.preprocessing:
        images = module.normalization(images)
    with writing(config, output):
        run = WRITERS[config.format](model, images[:2], metadata(module, config.preprocessing), output)

    with torch.no_grad():
        ours, theirs = _in_batches(model, images), _in_batches(run, images)
        single = run(images[:1])
    difference = max(
        float((a - b).abs().max()) for a, b in zip((*ours, ours[0][:1]), (*theirs, single[0]), strict=True)
    )
    measured = _measured(output, model, run, images, labels, ours[1], theirs[1])
    _show(measured, output, len(images[:BATCH_SIZE]))
    print(f"largest difference of a logit or a probability on {len(images):,} test images: {difference:.2e}")
    if not difference <= TOLERANCE:
        raise LithydraError(f"{output}: differs from the run's model by {difference:.2e}, more than {TOLERANCE:g}")
    print(f"written        {output}")
    return {"run": config.run, "output": output, "largest_difference": difference, **measured}


def metadata(module: Classifier, preprocessing: bool) -> dict[str, str]:
    """What someone needs who has the file alone."""
    return {
        "class_names": json.dumps(module.class_names, ensure_ascii=False),
        "image_shape": json.dumps(module.image_shape),
        "input": "uint8 images (B, C, H, W), 0 to 255" if preprocessing else "float32 images (B, C, H, W), normalized",
        "normalization": json.dumps(
            {"mean": module.normalization.mean.flatten().tolist(), "std": module.normalization.std.flatten().tolist()}
        ),
        "outputs": "logits, probabilities",
        "model": json.dumps(module.record["config"]["model"]),
        "trained_on": module.record["data"]["name"],
    }


def _onnx(model: Exported, example: Tensor, facts: dict[str, str], path: Path) -> Runner:
    import onnx
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            model,
            (example,),
            input_names=["images"],
            output_names=["logits", "probabilities"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)
    onnx.save(proto, str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # so that the latencies compare
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, probabilities = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(np.asarray(logits)), torch.from_numpy(np.asarray(probabilities))

    return run


def _torch_export(model: Exported, example: Tensor, facts: dict[str, str], path: Path) -> Runner:
    program = torch.export.export(model, (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(facts)})
    return torch.export.load(path).module()  # pyright: ignore[reportReturnType]


WRITERS: dict[str, Callable[[Exported, Tensor, dict[str, str], Path], Runner]] = {
    "onnx": _onnx,
    "torch_export": _torch_export,
}


def _in_batches(run: Runner, images: Tensor) -> tuple[Tensor, Tensor]:
    logits, probabilities = zip(*(run(batch) for batch in images.split(BATCH_SIZE)), strict=True)
    return torch.cat(logits), torch.cat(probabilities)


def _measured(
    path: Path, model: Runner, run: Runner, images: Tensor, labels: Tensor, ours: Tensor, theirs: Tensor
) -> dict[str, Any]:
    """Bytes of the file, and of both models the accuracy and the milliseconds for one image and for a batch."""
    figures: dict[str, Any] = {"bytes": path.stat().st_size}
    for name, runner, probabilities in (("PyTorch", model, ours), (path.suffix[1:], run, theirs)):
        figures[name] = {
            "accuracy": float((probabilities.argmax(1) == labels).float().mean()),
            "ms_for_one": latency(runner, images[:1]),
            "ms_for_batch": latency(runner, images[:BATCH_SIZE]),
        }
    return figures


def _show(measured: dict[str, Any], path: Path, batch: int) -> None:
    title = f"{path.name}, {measured['bytes'] / 2**20:.2f} MiB"
    table = Table("", "accuracy", "1 image", f"{batch} images", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in ("PyTorch", path.suffix[1:]):
        figures = measured[name]
        times = (f"{figures[key]:.2f} ms" for key in ("ms_for_one", "ms_for_batch"))
        table.add_row(name, f"{figures['accuracy']:.4f}", *times)
    Console(highlight=False, markup=False).print(table)


def latency(run: Runner, images: Tensor) -> float:
    """Median milliseconds of a call, of at least three."""
    times: list[float] = []
    with torch.inference_mode():
        run(images)  # the first calls warm up
        run(images)
        while len(times) < 3 or (len(times) < TIMED_CALLS and sum(times) < TIMED_SECONDS):
            start = time.perf_counter()
            run(images)
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)
