"""Figures about routing alone: entropy, prediction over distance, similar prompts, coverage."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.paper.analyses.prompt_pairs import TRAJECTORY, similar_prompts
from sim.paper.analyses.recall_by_distance import COARSE, FINE, recall_by_distance
from sim.paper.analyses.routing_entropy import heat_maps, layer_entropies, running_entropies
from sim.paper.analyses.stored_maps import REPLACEMENT, nearest_of_stored
from sim.paper.claims.claim import NOT_JUDGED
from sim.paper.figures import figure_4
from sim.paper.figures.figure_3a import Figure3a, hot_experts
from sim.paper.figures.figure_3b import Figure3b
from sim.paper.figures.figure_3c import Figure3c, plateau_share
from sim.paper.figures.figure_4 import Figure4
from sim.paper.figures.figure_8 import Figure8
from sim.paper.figures.figure_9 import Figure9
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.figures.theory_of_coverage import TheoryOfCoverage
from sim.paper.verdicts.verdict_table import judged
from tests.support.paper_routing import SETTINGS, routing_trace
from tests.support.trace_helpers import random_request, small_meta, write_trace
from traces.format.reader import Trace


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return routing_trace(tmp_path_factory.mktemp("routing"))


def test_a_plateau_needs_iterations_beyond_it() -> None:
    assert plateau_share(pd.Series([1.0] * 9 + [1.8] * 10 + [2.0])) == pytest.approx(0.9)
    assert np.isnan(plateau_share(pd.Series([1.0] * 19)))


def test_hot_experts_are_the_fewest_with_nine_tenths() -> None:
    assert hot_experts(np.array([[0.95, 0.05, 0, 0], [0.25, 0.25, 0.25, 0.25]])) == pytest.approx((1 + 4) / 2)


def test_fine_must_be_above_coarse_at_every_distance() -> None:
    rows = [
        {"model": "M", "prompts": "p", "grain": grain, "distance_layers": d, "hit_rate": rate, "hit_rate_from_1": 0.8}
        for grain, rates in ((FINE, (0.8, 0.79, 0.6)), (COARSE, (0.5, 0.5, 0.7)))
        for d, rate in zip((1, 2, 3), rates, strict=True)
    ]
    above, fall = (claim.ours({"4": pd.DataFrame(rows)}) for claim in Figure4().claims())
    assert above["value"].tolist() == [0.0]
    assert fall["value"].tolist() == pytest.approx([0.1])  # 0.8 → 0.6 over two layers
    assert "d = 3" in above["detail"].iloc[0]


def test_a_trace_without_embeddings_has_no_semantic_similarity(tmp_path: Path) -> None:
    meta = small_meta(embedding=False, prefill=False)
    requests = [random_request(number, meta, output=6) for number in range(5)]
    bare = Trace.open(write_trace(tmp_path / "bare.trace", meta, [requests]))
    table = similar_prompts(bare, SETTINGS)
    assert set(table["similarity"]) == {TRAJECTORY}
    assert "prefill" not in set(table["compared"])
    first, second = (table.assign(model="M", prompts=prompts) for prompts in ("p", "q"))
    for claim in Figure9().claims():
        values = claim.ours({"8": first, "9": second})["value"]
        assert len(values) == 2
        assert values.isna().all() == ("semantic" in claim.key)


def test_figure_9_is_not_judged_without_a_second_set_of_prompts(trace: Trace) -> None:
    table = similar_prompts(trace, SETTINGS).assign(model="M", prompts="p")
    for row in judged(Figure9().claims(), {"8": table, "9": table.iloc[:0]}):
        assert (row.verdict, row.reason) == (NOT_JUDGED, "no second set of prompts was given")


def test_a_promise_for_more_maps_than_the_history_has_is_not_judged(trace: Trace) -> None:
    table = nearest_of_stored(trace, SETTINGS).assign(model="M", prompts="p")
    asked = dict(zip(table["theory"].dropna(), table.loc[table["theory"].notna(), "asked_maps"], strict=True))
    assert asked == {0.75: 72, 0.98: 65}  # 2LJ and ½·LJ·ln(LJ) of 36 experts
    values = [claim.ours({"theory": table})["value"].iloc[0] for claim in TheoryOfCoverage().claims()]
    assert 0 <= values[0] <= 1
    replaced = table[table["store"] == REPLACEMENT]
    assert replaced["maps"].tolist() == [72]
    few = table.assign(maps=table["maps"].clip(upper=64))
    assert np.isnan([claim.ours({"theory": few})["value"].iloc[0] for claim in TheoryOfCoverage().claims()]).all()


def tables_of(trace: Trace) -> dict[str, pd.DataFrame]:
    """The table of each figure, from one trace under the names of two models."""
    made = {
        "3a": heat_maps(trace, SETTINGS),
        "3b": layer_entropies(trace, SETTINGS),
        "3c": running_entropies(trace, SETTINGS),
        "4": recall_by_distance(trace, {"requests": 1, "distances": [1, 2], "seed": 0}),
        "theory": nearest_of_stored(trace, SETTINGS),
        "8": similar_prompts(trace, SETTINGS),
    }
    tables = {
        key: pd.concat([table.assign(model=model, prompts="chat") for model in ("Mixtral", "Qwen")], ignore_index=True)
        for key, table in made.items()
    }
    return tables | {"9": tables["8"].iloc[:0]}


FIGURES: tuple[PaperFigure, ...] = (
    Figure3a(),
    Figure3b(),
    Figure3c(),
    Figure4(),
    TheoryOfCoverage(),
    Figure8(),
    Figure9(),
)


def test_every_figure_draws_its_table_and_evaluates_its_claims(trace: Trace) -> None:
    tables = tables_of(trace)
    for figure in FIGURES:
        assert figure.draw(tables[figure.key]).get_size_inches()[0] == pytest.approx(7)
        for claim in figure.claims():
            found = claim.ours(tables)
            assert set(found["footing"]) == {"both"}
            assert {"trace", "value"} <= set(found.columns)


def test_figures_about_routing_have_no_runs() -> None:
    assert [figure.cases(None) for figure in FIGURES] == [()] * len(FIGURES)  # type: ignore[arg-type]  # no study
    assert max(figure_4.THIN) <= figure_4.FARTHEST
