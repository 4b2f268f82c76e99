"""Table 1 and figure 18: what is counted from published sizes, and the bytes that the store really takes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from policies.prediction.expert_map_store import ExpertMapStore
from sim.paper.claims.claim import NOT_REPRODUCED, REPRODUCED
from sim.paper.figures.figure_18 import Figure18, store_bytes, store_memory
from sim.paper.figures.table_1 import TRACE, Table1
from sim.paper.study import Study
from sim.paper.study_traces import PaperTrace
from sim.paper.tiers import KICK_THE_TIRES
from sim.paper.verdicts.verdict_table import judged
from sim.sweeps.workers import Workers
from tests.support.builders import shape
from tests.support.trace_helpers import small_shape, small_trace

# By the closed form of the audit, computed by hand: 32 · 1024 · 4 · numbers of a map, with or without the embedding.
BY_HAND_MB = {
    ("Mixtral", "maps"): 32 * 8,
    ("Qwen", "maps"): 24 * 60,
    ("Phi", "maps"): 32 * 16,
    ("Mixtral", "maps and embeddings"): 32 * 8 + 4096,
    ("Qwen", "maps and embeddings"): 24 * 60 + 2048,
    ("Phi", "maps and embeddings"): 32 * 16 + 4096,
}


def verdicts_of(figure: Table1 | Figure18, table: pd.DataFrame) -> dict[str, str]:
    return {row.claim.key: row.verdict for row in judged(figure.claims(), {figure.key: table})}


@pytest.mark.parametrize("hidden", [None, 7])
def test_the_closed_form_is_what_the_store_allocates(hidden: int | None) -> None:
    model = shape(layers=3, experts=5, hidden=7)
    store = ExpertMapStore(model.layers, model.experts, capacity=11, prefetch_distance=1, hidden=hidden)
    store.add(np.ones((11, 3, 5), np.float32), None if hidden is None else np.ones((11, hidden), np.float32))
    kept = store.arrays()
    allocated = kept["maps"].nbytes + (0 if hidden is None else kept["embeddings"].nbytes)
    assert store_bytes(model, 11, embeddings=hidden is not None) == allocated == store.nbytes


def test_32_k_maps_take_the_known_megabytes() -> None:
    table = store_memory()
    largest = table[table["capacity"] == 32 * 1024].set_index(["model", "content"])["memory_mb"]
    assert dict(largest) == {key: pytest.approx(32 * 1024 * 4 * numbers / 1e6) for key, numbers in BY_HAND_MB.items()}
    rounded = {key: round(value) for key, value in largest.items()}
    assert rounded["Qwen", "maps"] == 189
    assert [rounded[name, "maps and embeddings"] for name in ("Mixtral", "Qwen", "Phi")] == [570, 457, 604]


def test_the_limit_holds_for_maps_alone_and_not_with_embeddings() -> None:
    assert verdicts_of(Figure18(), store_memory()) == {
        "18-memory": REPRODUCED,
        "18-memory-qwen": REPRODUCED,
        "18-memory-with-embeddings": NOT_REPRODUCED,
    }


def test_published_configurations_have_the_papers_numbers(tmp_path: Path) -> None:
    figure = Table1()
    study = study_of(small_trace(tmp_path / "small.trace"), "Tiny")
    table = figure.table(study, pd.DataFrame())
    assert set(verdicts_of(figure, table).values()) == {REPRODUCED}
    assert len(figure.claims()) == 12
    configured = table[table["source"] == "published configuration"].set_index("model")
    assert configured["total_parameters_b"].round(1).to_dict() == {"Mixtral": 46.7, "Qwen": 14.3, "Phi": 41.9}
    assert configured["active_parameters_b"].round(1).to_dict() == {"Mixtral": 12.9, "Qwen": 2.7, "Phi": 6.6}


def test_a_trace_of_another_topology_is_found_out(tmp_path: Path) -> None:
    figure = Table1()
    table = figure.table(study_of(small_trace(tmp_path / "small.trace"), "Mixtral"), pd.DataFrame())
    traced = table[table["source"] == TRACE].iloc[0]
    assert (traced["experts"], traced["layers"]) == (small_shape().experts, small_shape().layers)
    verdicts = verdicts_of(figure, table)
    assert verdicts["table-1-experts-mixtral"] == NOT_REPRODUCED
    assert verdicts["table-1-experts-qwen"] == REPRODUCED
    assert figure.draw(table).axes


def study_of(trace: Path, model: str) -> Study:
    paper_trace = PaperTrace(path=trace, model=model, prompts="random", sizes=None, best_distance=3)
    return Study(traces=[paper_trace], tier=KICK_THE_TIRES, store=trace.parent / "store", workers=Workers())
