"""Run notebooks from scratch and write their outputs into them.

python notebooks/fresh_outputs.py          all notebooks of this folder
python notebooks/fresh_outputs.py 02 04    those whose names start with 02 or 04

Each notebook runs in an empty folder, so it cannot depend on another's files. On one machine, the same code and
libraries give the same bytes: what differs from run to run (times, versions of Python, names of folders) is left out.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

HERE = Path(__file__).parent
CELL_TIMEOUT_S = 600  # a cell that takes longer is an error


def notebooks(*beginnings: str) -> list[Path]:
    """The notebooks of this folder whose names start with one of these; without arguments, all."""
    return [path for path in sorted(HERE.glob("*.ipynb")) if path.name.startswith(beginnings or "")]


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run the notebook in a folder with this Python and this code, and return it with its outputs.

    An error in a cell is a `CellExecutionError`.
    """
    notebook = nbformat.read(path, as_version=4)
    manager = AsyncKernelManager(
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # this Python, whatever kernels a user has
        transport="ipc",
        connection_file=str(folder / "kernel.json"),
    )
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=CELL_TIMEOUT_S,
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(cleanup_kc=True, env=_environment(folder))
    return _tidy(notebook)


def _environment(folder: Path) -> dict[str, str]:
    """This process's environment, with this Python, the packages of this checkout, and no result store."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FINEMOE_", "PYTEST_"))}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(HERE.parent),
        "IPYTHONDIR": str(folder / "ipython"),
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",  # how long anything takes differs from run to run
    }


def _tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what differs between versions of Python and Jupyter."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    return notebook


def main() -> None:
    """Write fresh outputs into the notebooks given on the command line."""
    for path in notebooks(*sys.argv[1:]):
        print(path.name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            fresh = executed(path, Path(folder))
        path.write_text(nbformat.writes(fresh, version=nbformat.NO_CONVERT) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
