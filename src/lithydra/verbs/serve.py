"""Try a run's model in the browser: draw, or drop an image, and see the probabilities."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import DictConfig

from lithydra.data.images import ImageError, decode
from lithydra.run.signals import stop_on_signal
from lithydra.training.classifier import Classifier
from lithydra.training.loading import load_classifier

if TYPE_CHECKING:
    import gradio  # pyright: ignore[reportMissingImports]

# Gradio's pad takes no stroke before a tool is picked.
PICK_BRUSH = """() => {
    const timer = setInterval(() => {
        const brush = document.querySelector("button[aria-label=Brush]");
        if (brush) { clearInterval(timer); brush.click(); }
    }, 100);
}"""
MAX_FILE_SIZE = "20mb"  # of an image that is sent
STROKE_MARGIN = 0.2  # around a drawing, as a part of its longer side: MNIST's digits have about as much


def serve(config: DictConfig) -> None:
    """Serve until Ctrl-C."""
    module = load_classifier(config.run, config.checkpoint, trust=config.trust, weights=config.weights, tta=config.tta)
    app = page(module, Path(config.run).name)
    import gradio  # pyright: ignore[reportMissingImports]
    from starlette.middleware import Middleware  # pyright: ignore[reportMissingImports]
    from starlette.middleware.trustedhost import TrustedHostMiddleware  # pyright: ignore[reportMissingImports]

    # Gradio's own fonts would be fetched from the network.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"], primary_hue="blue")
    stop_on_signal()
    app.launch(
        server_name=config.host,
        server_port=config.port,
        quiet=True,
        share=False,
        theme=theme,
        max_file_size=MAX_FILE_SIZE,
        app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(config.host))]},
        prevent_thread_lock=True,
    )
    print(f"Serving {config.run} at http://{config.host}:{config.port} (Ctrl-C stops)", flush=True)
    app.block_thread()


def allowed_hosts(host: str) -> list[str]:
    """The Host headers that are answered: a page of another name that leads here, as in DNS rebinding, is not.

    Served to whoever reaches the machine, the page has as many names as the machine has.
    """
    return ["*"] if host in ("0.0.0.0", "::") else [host, "localhost", "127.0.0.1"]


def page(module: Classifier, name: str) -> "gradio.Blocks":
    """Tabs to draw in (for gray images) and to drop an image in, beside the probabilities of the classes."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio  # pyright: ignore[reportMissingImports]

    brush = gradio.Brush(default_size=24, colors=["#000000"], color_mode="fixed")
    with gradio.Blocks(title=name, analytics_enabled=False) as app:
        shape, trained_on = " x ".join(map(str, module.image_shape)), module.record["data"]["name"]
        gradio.Markdown(f"# {name}\nTrained on {trained_on}: {len(module.class_names)} classes, images {shape}.")
        with gradio.Row():
            with gradio.Column():
                pad = None
                if module.image_shape[0] == 1:
                    with gradio.Tab("Draw"):
                        pad = gradio.Sketchpad(
                            type="filepath", label="Draw here", canvas_size=(400, 400), layers=False, brush=brush
                        )
                with gradio.Tab("Image"):
                    upload = gradio.Image(type="filepath", label="Drop an image", height=400)
                    light = gradio.Checkbox(False, label="Dark on a light background: invert")
            with gradio.Column():
                buttons = ["download", "fullscreen"]  # and not the one that sends the image to a public page
                shown = gradio.Image(
                    label="What the model sees", height=180, image_mode="RGB", interactive=False, buttons=buttons
                )
                label = gradio.Label(num_top_classes=min(5, len(module.class_names)), label="Probabilities")
        from_file, from_drawing = predictors(module)
        for event in (upload.change, light.change):
            event(from_file, [upload, light], [shown, label], api_name="predict")
        if pad is not None:
            pad.change(from_drawing, pad, [shown, label])
            app.load(js=PICK_BRUSH)
    return app


def predictors(module: Classifier) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Functions of a file with a flag to invert it, and of a drawing: the image as the net sees it, probabilities."""
    channels, height, width = module.image_shape

    def answer(image: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        pixels = torch.from_numpy(image if image.ndim == 3 else image[..., None]).permute(2, 0, 1)[None]
        with torch.inference_mode():
            probabilities = module.probabilities(module(pixels))[0].tolist()
        zoom = max(1, 180 // height)
        return image.repeat(zoom, 0).repeat(zoom, 1), dict(zip(module.class_names, probabilities, strict=True))

    def from_file(path: str | None, invert: bool) -> Any:
        if path is None:
            return None, None
        try:
            image = decode(Path(path), channels=channels, image_size=(height, width))
        except ImageError as error:
            import gradio  # pyright: ignore[reportMissingImports]

            raise gradio.Error(str(error)) from error
        return answer(255 - image if invert else image)

    def from_drawing(drawing: dict[str, Any] | None) -> Any:
        if not drawing or drawing["composite"] is None:
            return None, None
        strokes = 255 - decode(Path(drawing["composite"]), channels=1, image_size=None)
        if not strokes.any():
            return None, None
        size = min(height, width)
        top, left = (height - size) // 2, (width - size) // 2
        margins = ((top, height - size - top), (left, width - size - left))
        return answer(np.pad(centered(strokes, size), margins))

    return from_file, from_drawing


def centered(strokes: np.ndarray, size: int) -> np.ndarray:
    """A drawing, (H, W) uint8 bright on black, cut to its strokes with a margin and scaled to (size, size)."""
    from PIL import Image

    rows, columns = (np.flatnonzero(strokes.any(axis=axis)) for axis in (1, 0))
    cut = strokes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = round(max(cut.shape) * (1 + 2 * STROKE_MARGIN))
    square = np.zeros((side, side), np.uint8)
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    square[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BOX))
