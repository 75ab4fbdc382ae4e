"""Every example runs from start to end and says something."""

from pathlib import Path

import nbformat
import pytest
from fork_server import run
from nbclient import NotebookClient

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
NOTEBOOK = Path(__file__).parents[1] / "examples" / "plan_and_train.ipynb"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(example, tmp_path):
    done = run(["-W", "error", example], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not list(tmp_path.iterdir())


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    """In a kernel of its own, as Jupyter runs it; what it shows is a picture, and not kept."""
    notebook = nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    ran = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [one for cell in ran.cells if cell.cell_type == "code" for one in cell.outputs]
    assert any("image/svg+xml" in one.get("data", {}) for one in outputs)
    said = "".join(one.get("text", "") for one in outputs)
    assert "Update " in said
    assert "before" in said
    assert "live peak" in said
    assert not list(tmp_path.iterdir())
