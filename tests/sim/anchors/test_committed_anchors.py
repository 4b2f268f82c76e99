"""The anchors in the documentation follow from their own files, and every published number is there."""

import shutil
import subprocess
from pathlib import Path

import pytest

from sim.anchors.anchor_document import COMMAND, document
from sim.anchors.anchor_table import BASE, AnchorTable
from sim.anchors.published_anchors import ANCHORS, SIZE_GIB, bits_of_experts
from sim.hardware.origins import NO_SOURCE
from sim.hardware.presets import read_data_sheet

DOCS = Path(__file__).parents[3] / "docs"
MOE_INFINITY = "https://github.com/EfficientMoE/MoE-Infinity"
MIXTRAL_OFFLOADING = "https://arxiv.org/abs/2312.17238"
IMP = "https://github.com/kekzl/imp/pull/1374"

# As the sources print them: (source, unit, number, published hit rate).
PUBLISHED = [
    *((MOE_INFINITY, "s per token", seconds, None) for seconds in (0.735, 1.752, 2.486, 6.633)),
    *((MIXTRAL_OFFLOADING, "tokens/s", rate, None) for rate in (2.092, 1.567, 1.168, 0.661)),
    *((MIXTRAL_OFFLOADING, "tokens/s", rate, None) for rate in (1.603, 1.365, 1.061, 0.580)),
    (IMP, "tokens/s", 10.51, 0.366),
    (IMP, "tokens/s", 20.99, 0.741),
    (IMP, "tokens/s", 30.51, 0.894),
    (IMP, "tokens/s", 51.86, 0.962),
]


@pytest.fixture(scope="module")
def table() -> AnchorTable:
    return AnchorTable.read(DOCS / "anchors")


def test_the_document_of_anchors_matches_its_table(table: AnchorTable) -> None:
    assert document(table, ANCHORS, beside="anchors") == (DOCS / "anchors.md").read_text(encoding="utf-8")
    assert {row["status"] for row in table.rows} == {"done"}


def test_every_published_number_is_there_with_its_source(table: AnchorTable) -> None:
    rows = [row for row in table.rows if row["variation"] == BASE]
    assert [(row["source"], row["unit"], row["measured"], row["published_hit_rate"]) for row in rows] == PUBLISHED
    text = (DOCS / "anchors.md").read_text(encoding="utf-8")
    for source, _, number, _ in PUBLISHED:
        assert f"]({source})" in " ".join(text.split())
        assert f" {number:g} s |" in text or f" {number:g}/s |" in text


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_the_documents_command_is_the_makefiles() -> None:
    words = ["make", "--dry-run", "--always-make", "VENV=there", "anchors"]
    printed = subprocess.run(words, cwd=DOCS.parent, capture_output=True, text=True, check=True).stdout
    commands = printed.replace("\\\n", " ").replace("there/bin/", "").replace("comparison-out/routing", "ROUTING")
    assert COMMAND in commands
    assert "--out ROUTING/mixtral-8x7b-twin.trace" in commands  # which it replays


def test_errors_follow_from_the_times(table: AnchorTable) -> None:
    for row in table.rows:
        seconds = row["measured"] if row["unit"] == "s per token" else 1 / row["measured"]
        assert row["measured_s_per_token"] == pytest.approx(seconds)
        assert row["error"] == pytest.approx(row["simulated_s_per_token"] / seconds - 1)


def test_units_mean_the_same_to_the_anchors_and_to_their_table(table: AnchorTable) -> None:
    anchors = {anchor.key: anchor for anchor in ANCHORS}
    for row in table.rows:
        unit, seconds = anchors[row["anchor"]].unit, anchors[row["anchor"]].seconds(row["measured"])
        assert unit == row["unit"]
        assert row["measured"] == pytest.approx(seconds if unit == "s per token" else 1 / seconds)


def test_replayed_demands_hit_as_often_as_published(table: AnchorTable) -> None:
    replayed = [row for row in table.rows if row["published_hit_rate"] is not None]
    assert len(replayed) == 4 * 7
    for row in replayed:
        assert row["hit_rate"] == pytest.approx(row["published_hit_rate"], abs=1e-5)


def test_every_variation_has_its_runs(table: AnchorTable) -> None:
    wanted = [
        (anchor.key, point.name, name)
        for anchor in ANCHORS
        for name, applies in [(BASE, None), *((each.name, each.applies_to) for each in anchor.variations)]
        for point in anchor.points
        if applies is None or applies(point)
    ]
    assert [(row["anchor"], row["point"], row["variation"]) for row in table.rows] == wanted


def test_every_value_of_a_machine_has_a_source() -> None:
    for anchor in ANCHORS:
        sources = read_data_sheet(anchor.sheet).sources
        assert sources
        assert NO_SOURCE not in sources.values()


def test_bits_of_experts_follow_from_the_sizes_of_the_models() -> None:
    assert bits_of_experts(86.99) == pytest.approx(16, abs=0.01)  # table 1: the size without quantisation
    assert [round(bits_of_experts(gib), 2) for gib in SIZE_GIB.values()] == [3.11, 3.85]
