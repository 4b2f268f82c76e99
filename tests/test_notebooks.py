"""The notebooks run from scratch, and what is committed of them is what they show: the same text but for numbers."""

import re
from pathlib import Path

import nbformat
import pytest

from notebooks.fresh_outputs import HERE, executed, notebooks

NOTEBOOKS = notebooks()
NUMBER = re.compile(r"[0-9a-f]{64}|[-+]?\d[\d,]*(\.\d*)?([eE][-+]?\d+)?(\+[a-z0-9]+)?")
MACHINE = re.compile(r"/(tmp|root|home|Users|opt|usr|work|mnt|var)/|0x[0-9a-f]{6,}|\b\d{1,2}:\d{2}:\d{2}\b|\d+%\|")
PICTURE, TABLE, TEXT = "image/png", "text/html", "text/plain"
SLOWEST = "06_implied_testbed"
WITHOUT_OUTPUT = {"collect", "collect-twin"}  # whose progress goes into a log

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def forms(cell: nbformat.NotebookNode) -> list[tuple[str, ...]]:
    """Of each output of a cell, what it is: a stream's name, or its kinds of data."""
    return [(output["name"],) if "name" in output else tuple(sorted(output.get("data", ()))) for output in cell.outputs]


def texts(cell: nbformat.NotebookNode) -> list[str]:
    """What a reader sees of a cell as words, without numbers and the room that they take; of a table, its headers."""
    said = []
    for output in cell.outputs:
        data = output.get("data", {})
        table = " ".join(re.findall("<th[^>]*>(.*?)</th>", data.get(TABLE, "")))
        said.append(table or output.get("text") or data.get(TEXT, ""))
    return [re.sub(r"[\s-]+", " ", NUMBER.sub("#", text)) for text in said]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebooks run. The first one records the routing, and the others find it there."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.notebooks
@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [pytest.param(each, marks=[pytest.mark.long] * (each.stem == SLOWEST), id=each.stem) for each in NOTEBOOKS],
)
def test_a_notebook_runs_and_shows_what_is_committed(path: Path, folder: Path) -> None:
    committed, fresh = (code(each) for each in (nbformat.read(path, as_version=4), executed(path, folder)))
    for before, now in zip(committed, fresh, strict=True):
        stale = f"{path.name}, cell {now.id}: make notebooks"
        assert forms(now) == forms(before), stale
        assert texts(now) == texts(before), stale


@each_notebook
def test_every_cell_was_run_in_order_and_none_failed_or_warned(path: Path) -> None:
    cells = code(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert {cell.id for cell in cells if not cell.outputs} <= WITHOUT_OUTPUT
    for cell in cells:
        assert all(output.output_type != "error" and output.get("name") != "stderr" for output in cell.outputs)
        assert not any("Warning" in text for text in texts(cell)), cell.id


@each_notebook
def test_outputs_render_on_a_code_host_and_say_nothing_of_the_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    kinds = {kind for cell in code(notebook) for form in forms(cell) for kind in form}
    assert kinds <= {PICTURE, TABLE, TEXT, "stdout"}
    assert PICTURE in kinds
    for cell in notebook.cells:
        shown = [cell.source, *(str(text) for out in cell.get("outputs", ()) for text in readable(out))]
        assert not any(MACHINE.search(text) for text in shown), cell.id
    assert path.stat().st_size < 700_000


def readable(output: nbformat.NotebookNode) -> list[str]:
    return [output.get("text", ""), *(text for kind, text in output.get("data", {}).items() if kind != PICTURE)]


@each_notebook
def test_what_changes_from_machine_to_machine_is_not_committed(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert {*notebook.metadata} == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    assert all(cell.metadata == {} for cell in notebook.cells)


@each_notebook
def test_the_first_words_are_a_title_and_the_last_what_the_numbers_do_not_mean(path: Path) -> None:
    first, *_, last = nbformat.read(path, as_version=4).cells
    assert first.source.startswith(f"# {int(path.stem[:2])}. ")
    assert last.source.startswith("## What these numbers do not mean\n")


def test_notebooks_that_record_routing_record_the_same() -> None:
    found = [
        cell.source for path in NOTEBOOKS for cell in code(nbformat.read(path, as_version=4)) if cell.id == "collect"
    ]
    assert len(found) >= 4
    assert len(set(found)) == 1


def test_the_notebooks_are_numbered_and_listed() -> None:
    assert [int(path.stem[:2]) for path in NOTEBOOKS] == [*range(1, len(NOTEBOOKS) + 1)]
    listed = re.findall(r"\]\((\S+\.ipynb)\)", (HERE / "README.md").read_text(encoding="utf-8"))
    assert listed == [path.name for path in NOTEBOOKS]
