"""The page that serves a run: its predictions, its parts, and the page in a browser where Gradio and Chromium are."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import lithydra
from conftest import ROOT, SMALL, RunTrain
from lithydra.run.directory import RunDir
from lithydra.verbs.serve import MAX_FILE_SIZE, centered, page, predictors, serve


def test_drawing_is_cut_and_centered() -> None:
    strokes = np.zeros((100, 200), np.uint8)
    strokes[10:50, 150:170] = 255
    image = centered(strokes, 28)
    assert image.shape == (28, 28)
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert (rows[0] + rows[-1], columns[0] + columns[-1]) == (27, 27)
    assert len(rows) == 20 and len(columns) == 10


def test_served_predictions_are_the_runs(run_train: RunTrain, data_dir: Path, tmp_path: Path) -> None:
    module = lithydra.load(run_train(*SMALL).path)
    image = np.load(data_dir / "digits.npz")["x_test"][0]
    Image.fromarray(255 - image).save(tmp_path / "light.png")
    from_file, from_drawing = predictors(module)
    seen, answer = from_file(str(tmp_path / "light.png"), True)
    with torch.no_grad():
        expected = module.probabilities(module(torch.from_numpy(image)[None, None]))[0]
    assert [answer[str(i)] for i in range(10)] == pytest.approx(expected.tolist())
    assert (seen[::22, ::22] == image).all()
    assert from_file(None, False) == from_drawing(None) == (None, None)


@pytest.fixture
def gradio(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """A stand-in for Gradio, which is an extra: it notes what it is called with, and serves nothing."""
    stand_in = MagicMock()
    monkeypatch.setitem(sys.modules, "gradio", stand_in)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")  # as `page` sets it, and here it is taken back
    return stand_in


@pytest.mark.parametrize(("channels", "tabs"), [(1, ["Draw", "Image"]), (3, ["Image"])])
def test_a_page_has_a_pad_to_draw_on_for_gray_images_alone(gradio: MagicMock, channels: int, tabs: list[str]) -> None:
    module: Any = SimpleNamespace(
        image_shape=(channels, 8, 8), class_names=["cat", "dog"], record={"data": {"name": "animals"}}
    )
    assert page(module, "run") is gradio.Blocks.return_value.__enter__.return_value
    assert [call.args[0] for call in gradio.Tab.call_args_list] == tabs
    assert gradio.Sketchpad.called == ("Draw" in tabs)


def test_a_served_run_is_guarded_and_its_address_said_when_it_answers(
    gradio: MagicMock, run_train: RunTrain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Starlette, which comes with Gradio, has a stand-in, too; and Ctrl-C goes on ending the tests."""
    middleware, trusted_host = MagicMock(), MagicMock()
    monkeypatch.setitem(sys.modules, "starlette.middleware", middleware)
    monkeypatch.setitem(sys.modules, "starlette.middleware.trustedhost", trusted_host)
    monkeypatch.setattr("lithydra.verbs.serve.stop_on_signal", lambda: None)
    run = run_train(*SMALL)
    capsys.readouterr()
    app = gradio.Blocks.return_value.__enter__.return_value
    app.launch.side_effect = lambda **_: print("launched")
    how = {"weights": "averaged", "tta": None}
    serve(
        OmegaConf.create(
            {"run": str(run.path), "checkpoint": "best", "host": "my.host", "port": 7861, "trust": [], **how}
        )
    )
    assert capsys.readouterr().out == f"launched\nServing {run.path} at http://my.host:7861 (Ctrl-C stops)\n"
    given = app.launch.call_args.kwargs
    assert (given["server_name"], given["server_port"], given["share"]) == ("my.host", 7861, False)
    assert given["max_file_size"] == MAX_FILE_SIZE
    assert given["app_kwargs"] == {"middleware": [middleware.Middleware.return_value]}
    names = ["my.host", "localhost", "127.0.0.1"]
    middleware.Middleware.assert_called_once_with(trusted_host.TrustedHostMiddleware, allowed_hosts=names)
    assert given["prevent_thread_lock"]  # else it does not return before Ctrl-C
    app.block_thread.assert_called_once_with()


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def served(run_train: RunTrain) -> Iterator[str]:
    """The address of a page that serves a run on digits."""
    with serving(run_train(*SMALL, "trainer.max_epochs=5")) as address:
        yield address


@contextmanager
def serving(run: RunDir) -> Iterator[str]:
    """`scripts/serve.py` as a process of its own, for as long as the block lasts; gives the page's address."""
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), f"run={run.path}", f"port={port}"]
    process = subprocess.Popen(command, cwd=run.path.parent, env={**os.environ, "OMP_NUM_THREADS": "1"})
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: urllib.request.urlopen(address, timeout=5).status == 200, 120)
        yield address
    finally:
        process.terminate()
        code = process.wait(20)
    assert code == 0


def wait_for(ready: Any, seconds: float) -> Any:
    """What `ready()` gives once it is true; errors count as not yet."""
    end = time.monotonic() + seconds
    while True:
        try:
            if result := ready():
                return result
        except (OSError, KeyError, ValueError):
            pass
        assert time.monotonic() < end, "timed out"
        time.sleep(0.3)


class Browser:
    """A tab of headless Chromium, spoken to in its debugging protocol."""

    def __init__(self, folder: Path, address: str) -> None:
        connect = pytest.importorskip("websockets.sync.client").connect
        assert CHROMIUM is not None
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            "--hide-scrollbars",
            "--window-size=1300,900",
        ]
        self.process = subprocess.Popen(
            [CHROMIUM, *flags, f"--user-data-dir={folder}", address], stderr=subprocess.DEVNULL
        )
        port = wait_for(lambda: (folder / "DevToolsActivePort").read_text().splitlines()[0], 30)
        pages = wait_for(lambda: json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json")), 30)
        url = next(p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page")
        self.open = ExitStack()
        self.socket = self.open.enter_context(connect(url, max_size=None))
        self.number = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=30))
            if answer.get("id") == self.number:
                return answer["result"]

    def value(self, javascript: str) -> Any:
        return self.call("Runtime.evaluate", expression=javascript)["result"].get("value")

    def stroke(self, points: list[tuple[float, float]]) -> None:
        """With the mouse, held down from the first point to the last."""
        kinds = ["mousePressed", *["mouseMoved"] * len(points), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [points[0], *points, points[-1]], strict=True):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
            time.sleep(0.03)

    def close(self) -> None:
        self.open.close()
        self.process.terminate()
        self.process.wait(20)


MIDDLE_OF_PAD = """(() => {
    const sizes = [...document.querySelectorAll("canvas")].map(canvas => canvas.getBoundingClientRect());
    const pad = sizes.find(size => size.width > 100);
    return JSON.stringify([pad.x + pad.width / 2, pad.y + pad.height / 2]);
})()"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_served_page_predicts_in_a_browser(served: str, data_dir: Path, tmp_path: Path) -> None:
    with np.load(data_dir / "digits.npz") as file:
        image = file["x_test"][file["y_test"] == 0][0]
    Image.fromarray(image).save(tmp_path / "zero.png")
    browser = Browser(tmp_path / "profile", served)
    try:
        text = "document.body.innerText"
        wait_for(lambda: "What the model sees" in (browser.value(text) or ""), 60)
        assert "Draw" in browser.value(text) and "10 classes" in browser.value(text)
        wait_for(lambda: browser.value("!!document.querySelector('button[aria-label*=Size]')"), 30)  # the brush's
        x, y = json.loads(browser.value(MIDDLE_OF_PAD))
        browser.stroke([(x, y + step) for step in range(-90, 91, 15)])
        wait_for(lambda: "%" in browser.value(text).partition("Probabilities")[2], 60)
        click = "[...document.querySelectorAll('button[role=tab]')].find(b => b.innerText.trim() == 'Image').click()"
        browser.value(click)
        browser.call("DOM.enable")
        root = browser.call("DOM.getDocument", depth=-1)["root"]["nodeId"]
        found = wait_for(
            lambda: browser.call("DOM.querySelectorAll", nodeId=root, selector="input[type=file]")["nodeIds"], 30
        )
        browser.call("DOM.setFileInputFiles", nodeId=found[-1], files=[str(tmp_path / "zero.png")])
        wait_for(lambda: browser.value(text).partition("Probabilities")[2].split()[:1] == ["0"], 60)
    finally:
        browser.close()
