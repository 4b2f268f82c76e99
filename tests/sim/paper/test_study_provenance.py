"""Figures and verdicts label routing that was not recorded or that repeats itself."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from common.parquet import META_KEY
from sim.paper import reproduction, written_paper
from sim.paper.figures.figure_18 import Figure18
from sim.paper.study import Study
from sim.paper.study_traces import users
from sim.paper.testbed.implied_testbed import ImpliedTestbed
from sim.paper.tiers import KICK_THE_TIRES
from sim.paper.written_paper import provenance_line, write_figures
from sim.sweeps.workers import Workers
from tests.support.paper_command import SHAPE
from tests.support.trace_helpers import random_request, small_meta, write_trace

WHY = "50% of the decode rows occurred before; policies that learn look better than they would on real text."


def study_of(folder: Path, kind: str, *, repetitive: bool) -> Study:
    """A study of one trace; if `repetitive`, the second half of its requests repeats the first."""
    meta = small_meta(kind=kind, shape=SHAPE)
    pairs = [random_request(at % 5 if repetitive else at, meta) for at in range(10)]
    own = [(replace(info, request=at), replace(one, request=at)) for at, (info, one) in enumerate(pairs)]
    path = write_trace(folder / "some.trace", meta, [own])
    return Study(traces=users([path]), tier=KICK_THE_TIRES, store=folder / "store", workers=Workers(jobs=1))


@pytest.mark.parametrize(
    ("kind", "repetitive", "said"),
    [
        ("captured", False, ""),
        ("synthetic", False, " small, some: SYNTHETIC routing in the shape of small."),
        ("fitted", False, " small, some: FITTED routing of small."),
        ("captured", True, f" small, some: captured, REPETITIVE routing of small. REPETITIVE small, some: {WHY}"),
    ],
)
def test_every_picture_and_table_states_its_provenance(
    kind: str, repetitive: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path, kind, repetitive=repetitive)
    line = f"Simulated, not measured. {study.tier.caution} Routing: small. Prompts: some.{said}"
    assert provenance_line(study) == line
    below: list[str] = []
    monkeypatch.setattr(written_paper, "save", lambda drawn, *_, **__: below.append(drawn.get_supxlabel()))
    figure = Figure18()
    write_figures([figure], study, {"18": figure.table(study, study.run([]))}, tmp_path)
    assert [line in " ".join(text.split()) for text in below] == [True, True]
    meta = json.loads(pq.read_schema(tmp_path / "figures" / "figure_18.parquet").metadata[META_KEY])
    assert meta["provenance"] == line
    assert [(each["kind"], bool(each["warning"])) for each in meta["traces"]] == [(kind, repetitive)]


@pytest.mark.slow
def test_verdicts_and_testbed_report_begin_with_the_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(tmp_path, "synthetic", repetitive=True)
    figures = [Figure18(), ImpliedTestbed()]
    monkeypatch.setattr(reproduction, "FIGURES", figures)
    assert not reproduction.reproduce(study, figures, tmp_path).failed
    for name in ("paper_vs_ours.md", "implied_testbed.md"):
        head = " ".join((tmp_path / name).read_text("utf-8").split("\n\n")[1].split())
        assert "SYNTHETIC, REPETITIVE routing in the shape of small. REPETITIVE small, some: 50% of" in head


def test_naturalness_of_a_trace_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(tmp_path, "captured", repetitive=True)
    first = provenance_line(study)

    def never(_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("sim.trace_naturalness.naturalness_of", never)
    assert provenance_line(study) == first
