from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One kernel for all notebooks, so that torch and diffusers are imported once."""
    manager = KernelManager()
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all notebooks, as when a user runs them in order."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_a_folder_of_its_own_and_is_stored_without_outputs(
    path: Path, folder: Path, kernel: KernelManager
) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    fresh_start = nbformat.v4.new_code_cell(f"%reset_selective -f .\n%cd -q {folder}")
    notebook.cells.insert(0, fresh_start)
    before = set(folder.iterdir())
    NotebookClient(notebook, km=kernel, timeout=300).execute()
    assert any(cell.outputs for cell in cells)
    made = {entry.name for entry in set(folder.iterdir()) - before}
    assert len(made) <= 1 and all(entry.is_dir() for entry in folder.iterdir()), made
