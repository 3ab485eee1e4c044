import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from conftest import ROOT

# As a person would write them; in the template itself they go to src/lithydra/ and conf/.
FILES = {
    "toy/net.py": """
        from torch import Tensor, nn

        class Toy(nn.Module):
            def __init__(self, *, in_shape: tuple[int, int, int], num_classes: int, width: int) -> None:
                super().__init__()
                self.conv = nn.Conv2d(in_shape[0], width, 3)
                self.head = nn.Linear(width, num_classes)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.conv(x).relu().mean((2, 3)))
    """,
    "conf/model/toy.yaml": """
        _target_: toy.net.Toy
        width: 8  # channels
    """,
    "toy/stripes.py": """
        import numpy as np

        from lithydra.data.base import ImageDataModule
        from lithydra.data.prepare import Arrays

        class Stripes(ImageDataModule):
            def read(self) -> Arrays:
                labels = np.arange(600) % 2
                images = np.random.default_rng(0).integers(0, 100, (600, 9, 11, 3), dtype=np.uint8)
                images[labels == 0, ::2] += 150
                images[labels == 1, :, ::2] += 150
                return Arrays(images[:500], labels[:500], images[500:], labels[500:])

            def class_names(self) -> tuple[str, ...]:
                return ("horizontal", "vertical")
    """,
    "conf/data/stripes.yaml": """
        defaults: [_base, _self_]
        _target_: toy.stripes.Stripes
        name: stripes
        batch_size: 20
    """,
}


def test_model_and_data_set_take_two_files_each(tmp_path: Path) -> None:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "train.py", f"hydra.searchpath=[file://{tmp_path / 'conf'}]"),
            *("data=stripes", "model=toy", "model.width=6", "trainer.max_epochs=4", "lr=0.02", "run=run"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"conv .*Conv2d .*6 . 7 . 9 .*168", done.stdout)  # in the table of layers
    run = tmp_path / "run"
    assert json.loads((run / "status.json").read_text())["metrics"]["test/acc"] > 0.9
    facts = json.loads((run / "provenance.json").read_text())["data"]
    assert facts["class_names"] == ["horizontal", "vertical"] and facts["image_shape"] == [3, 9, 11]
    assert (facts["num_train"], facts["num_val"], facts["num_test"]) == (450, 50, 100)


def test_unknown_choice_names_the_new_ones_too(tmp_path: Path) -> None:
    path = tmp_path / "conf" / "model" / "toy.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("_target_: toy.net.Toy\n")
    command = [sys.executable, ROOT / "train.py", f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "model=tyo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: model=tyo: choose one of airbench, alexnet,")
        and "Did you mean toy?" in done.stderr
    )
