"""docs/notebook.ipynb: it runs from top to bottom, and it was saved with what it shows."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, RunTrain

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def pictures(cells: list[Any]) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


def test_it_was_saved_with_its_pictures() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    ran = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert ran == [*range(1, len(ran) + 1)] and pictures(cells) == 3
    assert not [output for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]


def test_training_shows_its_bar_and_takes_it_away(run_train: RunTrain, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, bar: Any, raw: bool = False) -> None:
            shown.append(bar["text/plain"] if raw else bar._repr_mimebundle_([], [])["text/plain"])

    def display(*_: Any, **settings: Any) -> Handle | None:
        return Handle() if "display_id" in settings else None

    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    run_train("data.limit=200", "trainer.max_epochs=1", "callbacks.progress_bar.refresh_seconds=1e-9")
    assert "epoch 1" in shown[0] and shown[-1] == ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's parts
def test_it_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.read(NOTEBOOK, as_version=4)
    for cell in book.cells:
        cell.pop("outputs", None)
    NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert pictures(book.cells) == 3
    assert (tmp_path / "outputs" / "sweeps" / "rates" / "report.html").exists()
