"""The comparison in the documentation follows from its own files, and its commands are the Makefile's."""

import shutil
import subprocess
from pathlib import Path

import pytest

from sim.ranking.compared import COMPARED
from sim.ranking.comparison_document import document
from sim.ranking.comparison_table import ComparisonTable
from sim.ranking.order_tables import OrderTables
from tests.support.comparison_checks import orders_checked, times_checked

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


def test_the_document_follows_from_its_table() -> None:
    table = ComparisonTable.read(DOCS / "comparison")
    said = document(OrderTables(table, COMPARED), beside="comparison")
    assert said == (DOCS / "comparison.md").read_text(encoding="utf-8")
    assert {row["status"] for row in table.rows} <= {"done", "lacking", "refused"}


def test_its_times_and_orders_are_those_of_its_table() -> None:
    assert times_checked(DOCS) >= 9 * 6 * 12  # of five traces TPOT, of four TTFT
    assert orders_checked(DOCS) >= 100


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_the_commands_that_add_a_trace_are_those_of_the_makefile() -> None:
    routing = "comparison-out/routing"
    names = [f"{routing}/{each.name}.trace" for each in COMPARED.traces]
    words = ["make", "--dry-run", "--always-make", "VENV=there", "FINEMOE_DATA=DATA", *names]
    printed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commands = " ".join(printed.replace("\\\n", " ").replace("there/bin/", "").replace(routing, "ROUTING").split())
    assert [line for each in COMPARED.traces for line in each.made_by if line not in commands] == []
