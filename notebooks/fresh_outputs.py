"""Run notebooks from scratch, and write what they show into them.

python notebooks/fresh_outputs.py          all of this folder
python notebooks/fresh_outputs.py 02 04    those whose names begin so

Each runs in an empty folder, so none needs files of another. On one machine, the same code and libraries give the same
bytes: what differs from run to run (times, versions of Python, names of folders) is left out.
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
    """The notebooks of this folder whose names begin so; without any beginning, all."""
    return [path for path in sorted(HERE.glob("*.ipynb")) if path.name.startswith(beginnings or "")]


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with what its cells show when they run in a folder, by this Python and this code.

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
    """That of this process, but `python` is this Python, our packages are those beside us, and no store is set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FINEMOE_", "PYTEST_"))}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(HERE.parent),
        "IPYTHONDIR": str(folder / "ipython"),
        "OMP_NUM_THREADS": "1",
    }


def _tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what another Python or Jupyter would write otherwise."""
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
    """Write fresh outputs into the notebooks that the command line names."""
    for path in notebooks(*sys.argv[1:]):
        print(path.name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            fresh = executed(path, Path(folder))
        path.write_text(nbformat.writes(fresh, version=nbformat.NO_CONVERT) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
