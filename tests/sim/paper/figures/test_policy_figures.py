"""Figures 14a, 14b, 15, 16a and 16b: their cases, tables, claims and pictures, from runs made up by hand."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sim.paper.claims.claim import NOT_JUDGED, NOT_REPRODUCED, REPRODUCED
from sim.paper.figures.ablation import lighter
from sim.paper.figures.figure_14a import Figure14a
from sim.paper.figures.figure_14b import Figure14b
from sim.paper.figures.figure_15 import Figure15, best_distance, u_shaped
from sim.paper.figures.figure_16a import Figure16a
from sim.paper.figures.figure_16b import Figure16b
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.study import Study
from sim.paper.study_traces import PaperTrace
from sim.paper.tiers import KICK_THE_TIRES, QUICK, Tier
from sim.paper.verdicts.verdict_table import judged
from sim.sweeps.workers import Workers
from tests.support.trace_helpers import small_shape, small_trace

FIGURES = (Figure14a(), Figure14b(), Figure15(), Figure16a(), Figure16b())


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[PaperTrace]:
    path = small_trace(
        tmp_path_factory.mktemp("routing") / "small.trace", requests=10, shape=small_shape(layers=4), lookahead=(1, 3)
    )
    known = {"path": path, "sizes": None}
    return [
        PaperTrace(model=model, prompts=prompts, best_distance=best, **known)
        for prompts in ("chat", "text")
        for model, best in (("Mixtral", 3), ("Qwen", 6))
    ]


def study_of(traces: Sequence[PaperTrace], tier: Tier = QUICK) -> Study:
    return Study(traces=traces, tier=tier, store=traces[0].path.parent / "store", workers=Workers())


def made_up(figure: PaperFigure, study: Study, values: Any) -> pd.DataFrame:
    """A row per case, with the columns of a summary that `values` returns for its labels."""
    known = {"status": "done", "reason": None, "requests": 8, "ttft_s_mean": 1.0, "tpot_s_mean": 0.1}
    return pd.DataFrame([{**case.labels, **known, **values(case.labels)} for case in figure.cases(study)])


def verdicts_of(figure: PaperFigure, table: pd.DataFrame) -> dict[tuple[str, str], str]:
    return {(row.claim.key, row.footing): row.verdict for row in judged(figure.claims(), {figure.key: table})}


def hits(rates: Mapping[str, float], late: float = 0.1) -> Any:
    return lambda labels: {
        "hit_rate": rates[labels["variant"]],
        "late_rate": late,
        "hit_or_late_rate": rates[labels["variant"]] + late,
        "prefetched_copies": 5,
    }


TRACKED = {"Hit count": 0.1, "Speculate": 0.2, "Map (T)": 0.3, "Map (T+S)": 0.4, "Map (T+S+δ)": 0.4}


def test_trackers_are_judged_by_what_each_footing_counts_as_a_hit(traces: list[PaperTrace]) -> None:
    figure, study = Figure14a(), study_of(traces)
    table = figure.table(study, made_up(figure, study, hits(TRACKED)))
    assert set(table.loc[table["footing"] == "released", "counted_hit_rate"].round(3)) == {0.2, 0.3, 0.4, 0.5}
    for footing in ("even", "released"):
        verdicts = verdicts_of(figure, table)
        assert verdicts["14a-hit-count", footing] == verdicts["14a-map-ts", footing] == REPRODUCED
        assert verdicts["14a-map-ts-delta", footing] == NOT_REPRODUCED  # equal rates do not rise


def test_speculation_by_lookahead_is_shown_where_the_trace_has_it_and_not_judged(traces: list[PaperTrace]) -> None:
    figure, study = Figure14a(), study_of(traces)
    runs = made_up(figure, study, hits(TRACKED))
    other = runs["form"] == "lookahead"
    assert set(runs.loc[other, "model"]) == {"Mixtral"}
    runs.loc[other, "hit_rate"] = 0.0
    assert verdicts_of(figure, figure.table(study, runs))["14a-hit-count", "even"] == REPRODUCED


def test_evictors_are_judged_one_step_at_a_time(traces: list[PaperTrace]) -> None:
    figure, study = Figure14b(), study_of(traces)
    table = figure.table(study, made_up(figure, study, hits({"LRU": 0.5, "LFU": 0.6, "FineMoE": 0.55})))
    verdicts = verdicts_of(figure, table)
    assert verdicts["14b-lru-lfu", "even"] == REPRODUCED
    assert verdicts["14b-lfu-finemoe", "even"] == NOT_REPRODUCED


def test_figures_share_finemoes_runs(traces: list[PaperTrace]) -> None:
    study = study_of(traces)
    own = [{case.scenario for case in figure.cases(study)} for figure in FIGURES]
    for trace in traces:
        assert study.case(trace, f"finemoe,prefetch_distance={trace.best_distance}").scenario in set.intersection(
            *own[:4]
        )


def distances(ttft: Sequence[float], tpot: Sequence[float]) -> pd.DataFrame:
    return pd.DataFrame({"prefetch_distance": range(1, len(ttft) + 1), "ttft_ms": ttft, "tpot_ms": tpot})


@pytest.mark.parametrize(
    ("ttft", "tpot", "is_u"),
    [
        ([3, 2, 1, 2], [3, 1, 2, 3], 1),
        ([1, 2, 3, 4], [3, 1, 2, 3], 0),  # falls nowhere
        ([3, 2, 1, 1.005], [3, 1, 2, 3], 0),  # hardly rises
    ],
)
def test_a_u_has_its_minimum_inside_and_both_ends_above_it(ttft: list[float], tpot: list[float], is_u: int) -> None:
    assert u_shaped(distances(ttft, tpot))[0] == is_u


def test_the_best_distance_weighs_ttft_and_tpot_alike() -> None:
    best, said = best_distance(distances([20, 10, 11, 20], [1.5, 1.3, 1.0, 2.0]), 2)
    assert best == 3
    assert said == "TTFT alone: 2, TPOT alone: 3; at the paper's 2: TTFT +0.0 %, TPOT +30.0 % over the minimum"
    assert math.isnan(best_distance(distances([1, 2], [1, 2]), 2)[0])


def test_a_distance_that_was_refused_is_left_out(traces: list[PaperTrace]) -> None:
    figure, study = Figure15(), study_of(traces)
    runs = made_up(figure, study, lambda labels: {"ttft_s_mean": 1 + abs(labels["prefetch_distance"] - 3)})
    deep = runs["prefetch_distance"] == 8
    runs.loc[deep, ["status", "ttft_s_mean", "tpot_s_mean"]] = ["refused", None, None]
    table = figure.table(study, runs)
    assert len(figure.draw(table).axes) == 4
    assert verdicts_of(figure, table)["15-minimum-mixtral", "even"] == REPRODUCED


def scores(labels: Mapping[str, Any]) -> dict[str, float]:
    score = 0.5 + 0.4 * min(labels["capacity"], 1000) / 1000
    return {"search_score_semantic_mean": score, "search_score_trajectory_mean": score}


def test_scores_are_judged_only_where_the_history_fills_the_store(
    traces: list[PaperTrace], monkeypatch: pytest.MonkeyPatch
) -> None:
    figure, study = Figure16a(), study_of(traces)
    table = figure.table(study, made_up(figure, study, scores))
    assert set(table["history_maps"]) == {7 * 8}  # 7 of 10 requests, of 5 prompt tokens and 3 decoded
    assert set(verdicts_of(figure, table).values()) == {NOT_JUDGED}
    assert set(verdicts_of(figure, table.assign(history_maps=2000)).values()) == {REPRODUCED}
    assert set(verdicts_of(figure, table)) == {("16a-score-rise", "both"), ("16a-score-flat", "both")}


@pytest.mark.parametrize(
    ("maps", "line"),
    [(1500, ""), (500, "(history: 500 maps)"), (499, "(history: 499 maps, which fit at any capacity)")],
)
def test_the_title_says_why_scores_do_not_depend_on_the_capacity(
    traces: list[PaperTrace], maps: int, line: str
) -> None:
    figure, study = Figure16a(), study_of(traces)
    drawn = figure.draw(figure.table(study, made_up(figure, study, scores)).assign(history_maps=maps))
    assert " ".join(drawn.axes[0].get_title().split()).partition(" (")[2] == line.removeprefix("(")


def test_a_score_that_goes_on_rising_is_not_flat(traces: list[PaperTrace]) -> None:
    figure, study = Figure16a(), study_of(traces)
    runs = made_up(figure, study, lambda labels: {"search_score_trajectory_mean": 0.1 * math.log(labels["capacity"])})
    verdicts = verdicts_of(figure, figure.table(study, runs).assign(history_maps=2000))
    assert verdicts == {("16a-score-rise", "both"): REPRODUCED, ("16a-score-flat", "both"): NOT_REPRODUCED}


def test_most_cases_are_more_than_half(traces: list[PaperTrace]) -> None:
    figure, study = Figure16b(), study_of(traces)
    faster = {"FineMoE": 0.5}

    def times(labels: Mapping[str, Any]) -> dict[str, float]:
        slow_ttft = labels["footing"] == "released" and labels["system"] == "FineMoE"
        return {"ttft_s_mean": 2.0 if slow_ttft else 1.0, "tpot_s_mean": faster.get(labels["system"], 1.0)}

    runs = made_up(figure, study, times)
    runs.loc[(runs["footing"] == "even") & (runs["system"] == "FineMoE"), "ttft_s_mean"] = 0.9
    verdicts = verdicts_of(figure, figure.table(study, runs))
    assert verdicts == {("16b-lowest", "even"): REPRODUCED, ("16b-lowest", "released"): NOT_REPRODUCED}
    assert set(runs["model"]) == {"Mixtral"}
    assert set(runs["prompts"]) == {"chat"}


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)
def test_every_figure_is_drawn_from_runs_of_a_thin_study(figure: PaperFigure, traces: list[PaperTrace]) -> None:
    study = study_of(traces, KICK_THE_TIRES)
    assert len(figure.cases(study)) < len(figure.cases(study_of(traces))) or figure.key == "14b"
    table = figure.table(study, made_up(figure, study, lambda labels: {}))
    assert figure.draw(table).axes
    assert len(table) == len(figure.cases(study))
    assert verdicts_of(figure, table)


def test_a_lighter_colour_is_nearer_to_white() -> None:
    assert lighter("#000000", 0.0) == "#000000"
    assert lighter("#204060", 1.0) == "#ffffff"
    assert lighter("#000000", 0.5) == "#808080"


def test_without_mixtral_the_first_trace_is_batched(traces: list[PaperTrace], tmp_path: Path) -> None:
    others = [trace for trace in traces if trace.model == "Qwen"]
    assert {case.labels["model"] for case in Figure16b().cases(study_of(others))} == {"Qwen"}
