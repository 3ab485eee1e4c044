"""What a prediction rests on: Grad-CAM and integrated gradients of test images, as one picture.

Selvaraju et al., 2017, "Grad-CAM"; Sundararajan et al., 2017, "Axiomatic attribution for deep networks".
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from lithydra.callbacks.look_inside import as_image
from lithydra.checks.output import output_of, writing
from lithydra.data.loaders import EvaluationLoader
from lithydra.data.splits import Split
from lithydra.errors import ConfigError
from lithydra.run import plots
from lithydra.run.style import BAD, INK, style
from lithydra.training.classifier import Classifier
from lithydra.training.loading import load_classifier, load_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 50  # of the path that integrated gradients follow
BATCH = 16  # images at a time, times STEPS


class Explanation(NamedTuple):
    """An image with the places that speak for a class, by method: (H, W) float in [0, 1]."""

    guess: plots.Guess
    maps: dict[str, np.ndarray]


def explain(config: DictConfig) -> dict[str, Any]:
    """Draw the explanations of some test images; returns their numbers and the picture.

    Raises:
        ConfigError: No such run or images, or a net that has no gradient.
    """
    module = load_classifier(
        config.run, config.checkpoint, trust=config.trust, weights=config.weights, tta=config.tta
    ).requires_grad_(True)
    if not list(module.net.parameters()):
        raise ConfigError(f"run={config.run}: its net learns without a gradient, and these methods follow one")
    data = load_data(module.record, config.paths.data)
    assert data.test is not None
    positions = choose(module, data.test, config)
    images, labels = next(data.test.batches([positions]))
    found = explanations(module, images, labels, data.names, config.target)
    output = output_of("explain", config)
    with writing(config, output):
        plots.save(picture(found, config.target), output)
    print(f"test images    {', '.join(map(str, positions.tolist()))}")
    print(f"picture        {output}")
    return {"run": config.run, "images": positions.tolist(), "picture": output}


def choose(module: Classifier, test: Split, config: DictConfig) -> Tensor:
    """Positions (M,) in the test split."""
    if config.images is not None:
        wrong = [i for i in config.images if not 0 <= i < len(test)]
        if wrong:
            raise ConfigError(f"images={list(config.images)}: the test split has positions 0 to {len(test) - 1}")
        return torch.tensor(list(config.images))
    if config.only == "all":
        return torch.arange(min(config.num_images, len(test)))
    with torch.no_grad():
        right = [module.probabilities(module(x)).argmax(1) == y for x, y in EvaluationLoader(test, 1000)]
    chosen = (torch.cat(right) == (config.only == "right")).nonzero().squeeze(1)[: config.num_images]
    if not len(chosen):
        raise ConfigError(f"only={config.only}: the test split has no such image")
    return chosen


def explanations(
    module: Classifier, images: Tensor, labels: Tensor, names: tuple[str, ...], target: str
) -> list[Explanation]:
    """Of images (B, C, H, W) uint8, for their predicted or true class."""
    from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam

    for layer in module.net.modules():
        if hasattr(layer, "inplace"):  # captum keeps layers' outputs
            setattr(layer, "inplace", False)  # noqa: B010

    def logits(x: Tensor) -> Tensor:
        out = module.net(x)
        return torch.cat([-out, out], dim=1) if out.shape[1] == 1 else out

    with torch.no_grad():
        probabilities = module.probabilities(module(images))
    predicted = probabilities.argmax(1)
    explained = labels if target == "label" else predicted
    inputs = module.normalization(images)
    black = module.normalization(torch.zeros_like(images))
    maps: dict[str, Tensor] = {}
    if (layer := last_convolution(module.net)) is not None:
        cam = LayerGradCam(logits, layer).attribute(inputs, target=explained, relu_attributions=True)
        assert isinstance(cam, Tensor)
        maps["Grad-CAM"] = LayerAttribution.interpolate(cam, images.shape[2:], "bilinear").detach()[:, 0]
    integrated = IntegratedGradients(logits).attribute(
        inputs, black, target=explained, n_steps=STEPS, internal_batch_size=BATCH * STEPS
    )
    maps["integrated gradients"] = integrated.detach().abs().sum(1)
    scaled = {name: _to_unit(values) for name, values in maps.items()}
    found: list[Explanation] = []
    for i, image in enumerate(images):
        sure = float(probabilities[i, predicted[i]])
        guess = plots.Guess(as_image(image), names[int(predicted[i])], sure, names[int(labels[i])])
        found.append(Explanation(guess, {name: values[i].numpy() for name, values in scaled.items()}))
    return found


def last_convolution(net: nn.Module) -> nn.Conv2d | None:
    return next((layer for layer in reversed(list(net.modules())) if isinstance(layer, nn.Conv2d)), None)


def _to_unit(maps: Tensor) -> Tensor:
    """(B, H, W), each divided by its largest value."""
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)


@style()
def picture(found: list[Explanation], target: str) -> "Figure":
    """A column for each image: the image, and each method's map."""
    methods = list(found[0].maps)
    drawn = plots.figure(1.5 * len(found) + 0.8, 1.55 * (1 + len(methods)) + 0.5)
    grid = drawn.subplots(1 + len(methods), len(found), squeeze=False)
    for column, (guess, maps) in enumerate(found):
        height, width = guess.image.shape[:2]
        gray = guess.image.mean(axis=2)
        for axes in grid[:, column]:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        top = grid[0, column]
        top.imshow(guess.image.squeeze(), cmap="gray", vmin=0, vmax=255)
        color = INK if guess.predicted == guess.truth else BAD
        title = f"{guess.predicted} ({guess.probability:.0%})\ntrue: {guess.truth}"
        top.set_title(title, fontsize=8, fontweight="normal", color=color)
        for axes, name in zip(grid[1:, column], methods, strict=True):
            axes.imshow(gray, cmap="gray", vmin=0, vmax=255)
            axes.imshow(
                maps[name], cmap="inferno", vmin=0, vmax=1, alpha=0.7, extent=(-0.5, width - 0.5, height - 0.5, -0.5)
            )
    for axes, name in zip(grid[:, 0], ["image", *methods], strict=True):
        axes.set_ylabel(name, fontsize=9)
    drawn.suptitle(f"What speaks for the {'true' if target == 'label' else 'predicted'} class", fontsize=11)
    return drawn
