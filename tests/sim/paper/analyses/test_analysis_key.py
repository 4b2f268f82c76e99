"""The key of an analysis covers the code that computes it, and no legend."""

import subprocess
import sys
from pathlib import Path

from sim.content_hash import source_files
from sim.paper.study import analysis_files

ROOT = Path(__file__).parents[4]
ANALYSES = sorted((ROOT / "sim/paper/analyses").glob("[a-z]*.py"))
WITHOUT_EFFECT = {  # files, hashes and messages; and sizes, which analyses take from the trace
    "common/errors.py",
    "common/files.py",
    "common/hashing.py",
    "common/interruptions.py",
    "common/parquet.py",
    "common/progress.py",
    "common/tables.py",
    "common/toml_files.py",
    "traces/published_models.py",
}
CLOSURE = """
import importlib, sys
from pathlib import Path
for name in sys.argv[1:]:
    importlib.import_module(name)
files = [Path(module.__file__) for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
root = Path.cwd()
print(*(str(file.relative_to(root)) for file in files if file.is_relative_to(root) and ".venv" not in file.parts))
"""


def names(files: list[Path]) -> set[str]:
    return {file.relative_to(ROOT).as_posix() for file in files}


def test_all_that_analyses_import_is_in_their_key() -> None:
    modules = [f"sim.paper.analyses.{path.stem}" for path in ANALYSES]
    command = [sys.executable, "-c", CLOSURE, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {name for name in done.stdout.split() if not name.endswith("__init__.py")}
    assert names(ANALYSES) <= imported
    assert imported - names(source_files() + analysis_files()) <= WITHOUT_EFFECT


def test_no_figure_is_in_the_key_of_an_analysis() -> None:
    hashed = names(source_files() + analysis_files())
    assert {name for name in hashed if name.startswith("sim/paper/")} == names(ANALYSES) | {
        "sim/paper/analyses/__init__.py"
    }
