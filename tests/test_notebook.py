"""docs/notebook.ipynb: it runs from top to bottom, and it was saved with what it shows."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def pictures(cells: list[Any]) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


def test_it_was_saved_with_its_pictures() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    ran = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert ran == [*range(1, len(ran) + 1)] and pictures(cells) == 3
    assert not [output for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]


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
