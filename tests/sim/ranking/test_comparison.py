"""A small comparison from traces to the document: killed and resumed, made again, and held against its own table."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim.__main__ import main
from sim.ranking.comparison_document import document
from sim.ranking.comparison_table import ComparisonTable
from sim.ranking.order_tables import OrderTables
from tests.support.comparison_checks import orders_checked, times_checked
from tests.support.sweep_runs import begun_again, events, run_bytes
from tests.support.tiny_comparison import TINY, carried_out, tiny_routing

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def routing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_routing(tmp_path_factory.mktemp("routing"))


@pytest.fixture(scope="module")
def alone(routing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison that was left alone: `store` and `docs`."""
    folder = tmp_path_factory.mktemp("alone")
    carried_out(routing, folder / "store", folder / "docs")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


@pytest.mark.slow
def test_a_killed_comparison_resumes_and_ends_with_the_same_bytes(alone: Path, routing: Path, tmp_path: Path) -> None:
    store, out = tmp_path / "store", tmp_path / "docs"
    runs = len(list((alone / "store").glob("runs/??/*")))
    words = [sys.executable, "-m", "tests.support.tiny_comparison", *map(str, (routing, store, out))]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and len(list(store.glob("runs/??/*/meta.json"))) < runs // 2:
        time.sleep(0.01)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "comparison.md").exists()
    carried_out(routing, store, out)
    assert files(out) == files(alone / "docs")
    assert run_bytes(store) == run_bytes(alone / "store")
    assert begun_again(store) == []


def test_the_command_on_a_full_store_computes_nothing_and_gives_the_same_bytes(
    alone: Path, routing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = events(alone / "store")
    monkeypatch.setattr("sim.ranking.compared.COMPARED", TINY)
    out = tmp_path / "docs"
    words = ["--routing", str(routing), "--store", str(alone / "store"), "--jobs", "1", "--out", str(out)]
    assert main(["comparison", *words]) == 0
    assert events(alone / "store") == before
    assert files(out) == files(alone / "docs")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("Simulated, not measured.")
    assert printed[-1] == f"wrote {out / 'comparison.md'}"
    assert max(map(len, printed[:-1])) <= 100


def test_the_document_follows_from_the_files_beside_it(alone: Path) -> None:
    table = ComparisonTable.read(alone / "docs" / "comparison")
    said = document(OrderTables(table, TINY), beside="comparison")
    assert said == (alone / "docs" / "comparison.md").read_text(encoding="utf-8")


def test_every_time_in_the_document_is_that_of_the_table(alone: Path) -> None:
    assert times_checked(alone / "docs") == 3 * 3 * 5  # of two traces TPOT, of one TTFT; machines and systems


def test_orders_in_the_document_are_those_of_the_means_in_the_table(alone: Path) -> None:
    assert orders_checked(alone / "docs") == 12


def test_a_missing_number_is_a_dash_with_a_reason(alone: Path) -> None:
    text = (alone / "docs" / "comparison.md").read_text(encoding="utf-8")
    lines = " ".join(text.split())
    assert "**Left out: absent**, because `absent.trace` is missing." in lines
    assert "```sh make whole make decode make absent --out ROUTING ```" in lines
    assert "decode only: recorded without prefills, so there is no TTFT." in lines
    assert re.search(
        r"decode only: without ProMoE \(lookahead\): the trace lacks the guesses of the router three layers", lines
    )
    assert re.search(r"GB on none.*: without any system: cache\.gb: ", lines)
    assert "by trajectory only" in lines
    assert "SYNTHETIC routing in the shape of small" in lines


def test_without_any_trace_there_is_one_line_and_no_document(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    places = {"--routing": tmp_path, "--store": tmp_path / "store", "--out": tmp_path / "docs"}
    assert main(["comparison", *(str(word) for place in places.items() for word in place)]) == 2
    assert "contains none of these traces: mixtral-8x7b-twin.trace" in capsys.readouterr().err
    assert not (tmp_path / "docs" / "comparison.md").exists()
