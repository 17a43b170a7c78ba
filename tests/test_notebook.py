"""docs/notebook.ipynb runs as it is stored, without a warning, and is stored with what it shows."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

MAX_BYTES = 300 * 1024


@pytest.fixture(scope="module")
def notebook(repository_docs: Path) -> Any:
    return nbformat.read(repository_docs / "notebook.ipynb", as_version=4)


@pytest.fixture(scope="module")
def repository_docs() -> Path:
    return Path(__file__).resolve().parents[1] / "docs"


def kinds(cell: Any) -> list[str]:
    """What a cell shows, by form: text on the way, or the richest form of a value."""
    forms = ("text/plain", "text/html", "image/png")
    return [output.get("name") or max(output.data, key=forms.index) for output in cell.outputs]


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_is_stored_with_its_pictures(notebook: Any, repository_docs: Path) -> None:
    nbformat.validate(notebook)
    assert (repository_docs / "notebook.ipynb").stat().st_size < MAX_BYTES
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1)), "run in order"
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    pictures = [
        base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 10_000 for picture in pictures)
    assert str(Path.home()) not in str(notebook), "nobody's folders"


@pytest.mark.ray
@pytest.mark.slow  # most of a minute; what stands in it is checked above
def test_runs_as_stored(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKDTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    executed = nbformat.from_dict(notebook)
    strict = nbformat.v4.new_code_cell("import warnings\nwarnings.simplefilter('error')")
    executed.cells.insert(0, strict)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(executed, timeout=300, kernel_name="python3", coalesce_streams=True, resources=where).execute()
    assert os.listdir(tmp_path / "runs") == ["notebook"]
    cells = {cell.id: cell for cell in code(executed)[1:]}
    assert {name: kinds(cell) for name, cell in cells.items()} == {cell.id: kinds(cell) for cell in code(notebook)}
    (printed,) = (cell.outputs[0].text for cell in cells.values() if "akdtune.run(" in cell.source)
    assert printed.startswith("study notebook in runs/notebook (new)\n"), "Tune has cleared nothing"
    assert "16 trials: 16 done\n" in printed
    (right,) = (cell.outputs[0].data["text/plain"] for cell in cells.values() if "predicted ==" in cell.source)
    shares = re.findall(r"([\d.]+) %", right)
    assert len(shares) == 2
    assert shares[0] == shares[1], "the loaded student answers as the trial did"
