"""The command `finemoe traces analyse`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from common.outputs import folder as output
from common.outputs import reserved
from tests.support.trace_helpers import random_request, small_meta, small_shape, small_trace, write_trace
from traces.__main__ import main as traces
from traces.analysis import analysis_figures
from traces.analysis.analysis_figures import draw_all, save, whose
from traces.analysis.analysis_settings import ANALYSIS_FILES, AnalysisSettings
from traces.analysis.expert_counts import read_counts
from traces.analysis.trace_analysis import analyse
from traces.format.reader import Trace

TABLES = {
    "entropy",
    "entropy_iterations",
    "heat_map",
    "overlap",
    "popularity",
    "balance",
    "reuse_distance",
    "cache_curves",
    "similarity",
    "similarity_pairs",
    "similarity_bins",
    "coverage",
}
PICTURES = {"entropy", "heat_map", "overlap", "cache_curves", "popularity", "similarity", "coverage"}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_trace(tmp_path_factory.mktemp("trace") / "small.trace", requests=8)


@pytest.fixture(scope="module")
def coarse() -> Iterator[None]:
    """Pictures of few pixels, panels unfitted: no test looks at them, and drawing takes most of the time."""

    def quickly(drawn: Any, path: Path, dpi: int) -> None:
        drawn.set_layout_engine("none")
        save(drawn, path, dpi=dpi // 10)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis_figures, "save", quickly)
        yield


@pytest.fixture(scope="module")
def folder(trace: Path, coarse: None) -> Path:
    out = trace.parent / "found" / "analysis"
    assert traces(words(trace, "--out", out, "--shared-cache")) == 0
    return out


def words(trace: Path, *more: Any) -> list[str]:
    return ["analyse", str(trace), "--train-split", "0.5", *map(str, more)]


def test_a_folder_of_tables_and_pictures_appears(trace: Path, folder: Path) -> None:
    names = {f"{name}.parquet" for name in TABLES} | {f"{name}.png" for name in PICTURES} | {"meta.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert names == set(ANALYSIS_FILES.names)  # the only ones that another analysis replaces
    assert [path.name for path in folder.parent.iterdir()] == ["analysis"]
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["trace_sha256"] == Trace.open(trace).digest
    assert (meta["analysed_requests"], meta["history_requests"], meta["test_requests"]) == (8, 4, 4)
    for name in TABLES:
        assert json.loads(pq.read_schema(folder / f"{name}.parquet").metadata[b"finemoe_lab"]) == meta
        assert len(pd.read_parquet(folder / f"{name}.parquet"))


def test_an_analysis_takes_the_place_of_an_analysis_alone(
    trace: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = small_trace(tmp_path / "other.trace")
    own = tmp_path / "own"
    own.mkdir()
    (own / "experiment.parquet").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    refused = {trace: "this command reads it", other: "it has embeddings.parquet", own: "it has experiment"}
    for out, why in refused.items():
        assert traces(words(trace, "--out", out, "--overwrite")) == 2
        assert f"error: {out} cannot be replaced: {why}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with reserved(output(folder, ANALYSIS_FILES), overwrite=True):
        pass


def test_the_table_of_popularity_holds_counts_to_place_experts_by(trace: Path, folder: Path) -> None:
    opened = Trace.open(trace)
    counts = read_counts(folder / "popularity.parquet", opened.shape).tokens
    whole = np.zeros((3, 6), int)
    for recorded in opened.iter():
        np.add.at(whole, (np.arange(3)[:, None], recorded.experts), 1)
    np.testing.assert_array_equal(counts, whole)


@pytest.mark.usefixtures("coarse")
def test_the_same_command_gives_the_same_bytes(trace: Path, folder: Path, tmp_path: Path) -> None:
    assert traces(words(trace, "--out", tmp_path / "again", "--shared-cache")) == 0
    one, again = ({path.name: path.read_bytes() for path in out.iterdir()} for out in (folder, tmp_path / "again"))
    assert one == again


def test_an_existing_folder_is_left_alone(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert traces(words(trace, "--out", tmp_path)) == 2
    assert "exists already" in capsys.readouterr().err


def test_figures_for_people_and_programs_are_the_same(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert traces(words(trace, "--json", "--shared-cache")) == 0
    found = json.loads(capsys.readouterr().out)
    assert traces(words(trace, "--shared-cache")) == 0
    shown = capsys.readouterr().out
    assert "SYNTHETIC: generated, not recorded" in shown
    assert [each["layer"] for each in found["per_layer"]] == [0, 1, 2]
    assert f"{found['all_layers']['overlap'] * 100:.1f}" in shown
    assert {each["similarity"] for each in found["similarity"]} == {"trajectory", "ahead", "semantic"}
    assert {each["phase"] for each in found["similarity"]} == {"decode", "prefill"}
    for each in found["similarity"]:
        assert f"{each['pearson_pairs']:.3f}" in shown
    assert "One cache for all layers" in shown
    # L·J = 18: 2LJ = 36, ½ · 18 · ln 18 = 26; four history requests have 4 · 3 decode iterations.
    theory = [(each["asked_maps"], each["maps"]) for each in found["coverage"] if each["theory"]]
    assert theory == [(26, 12), (36, 12)]
    assert "(36 asked," in shown
    assert "history has 12)" in shown


def test_a_trace_without_embeddings_or_prefill_says_what_it_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small_trace(
        tmp_path / "bare.trace", requests=6, embedding=False, prefill=False, gate_complete=False, kind="imported"
    )
    assert traces(words(path, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert {(each["phase"], each["similarity"]) for each in found["similarity"]} == {
        ("decode", "trajectory"),
        ("decode", "ahead"),
    }
    assert traces(words(path)) == 0
    assert "The trace has gates of executed experts only" in capsys.readouterr().out
    assert "weights of the executed experts only" in whose(analyse(Trace.open(path), AnalysisSettings()))


def test_without_a_history_there_are_no_similarities(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert traces(["analyse", str(trace), "--train-split", "0"]) == 0
    assert "No similarities" in capsys.readouterr().out


def test_fewer_requests_are_a_seeded_draw(trace: Path) -> None:
    opened = Trace.open(trace)
    picked = []

    def watch(ids: Any) -> Any:
        picked.append(list(ids))
        return ids

    for seed in (0, 0, 1):
        analyse(opened, AnalysisSettings(requests=3, seed=seed), watch)
    assert picked[0] == picked[1] == sorted(picked[0])
    assert picked[0] != picked[2]
    assert {len(each) for each in picked} == {3}


@pytest.mark.parametrize("kind", ["captured", "imported", "synthetic", "fitted"])
def test_titles_name_the_trace_and_label_what_was_not_recorded(tmp_path: Path, kind: str) -> None:
    found = analyse(Trace.open(small_trace(tmp_path / "some.trace", kind=kind)), AnalysisSettings())
    title = whose(found)
    assert title.startswith("some.trace: ")
    assert ("SYNTHETIC" in title) == (kind == "synthetic")
    assert ("FITTED" in title) == (kind == "fitted")
    assert "small" in title


def test_a_single_layer_and_a_single_iteration_can_be_drawn(tmp_path: Path) -> None:
    meta = small_meta(shape=small_shape(layers=1), lookahead=())
    pairs = [random_request(request, meta, output=1) for request in range(4)]
    found = analyse(Trace.open(write_trace(tmp_path / "tiny.trace", meta, [pairs])), AnalysisSettings())
    assert "coverage" not in found.tables  # no decode iterations
    drawn = {path.stem for path in draw_all(found, tmp_path)}
    assert drawn == PICTURES - {"coverage"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--train-split", "1.5"], "--train-split: must be at least 0 and at most 1, not 1.5"),
        (["--requests", "0"], "--requests: must be at least 1, not 0"),
        (["--sample", "0"], "--sample: must be at least 1, not 0"),
        (["--seed", "-1"], "--seed: must be at least 0, not -1"),
        (["--request", "99"], "--request: must be one of the 8 analysed requests, not 99"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    trace: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert traces(["analyse", str(trace), *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_matplotlib_is_not_loaded_without_pictures(trace: Path) -> None:
    code = (
        "import sys; from traces.__main__ import main; main(sys.argv[1:]); "
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'torch')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "analyse", str(trace)],
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
