"""`finemoe traces synthetic`: the command, its mistakes, and traces that imitate another."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.shared_data import GPT_OSS
from tests.support.synthetic_helpers import ASKED, LAYERS, by_hand, calibrated, command, drawn, parameters, written
from tests.support.trace_helpers import content
from traces.__main__ import main
from traces.analysis.iterations import iterations_of
from traces.format.checks import check
from traces.format.reader import Trace
from traces.synthetic.drawn_trace import Lengths, generate
from traces.synthetic.measured_statistics import Measured, SameToken, clusters_of, measure
from traces.synthetic.state_space import SyntheticModel
from traces.workloads.arrivals import Workload
from traces.workloads.workload_files import write_workload

TOO_FEW = "--requests: too few to measure their statistics: give at least 2, of which one has more than 3 output tokens"

SHORT = ("--requests", 10, "--output-tokens", 10)
DEEP = ("--layers", 5, "--lookahead", "1,2")  # deep enough for recall


def like(source: Path, out: Path, *more: Any) -> Trace:
    assert main([str(word) for word in ["synthetic", "--like", source, "--out", out, *more]]) == 0
    return Trace.open(out)


def analysed(trace: Path) -> dict[str, Any]:
    """What `traces analyse` says of it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["analyse", str(trace), "--json"]) == 0
    found: dict[str, Any] = json.loads(printed.getvalue())
    return found


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return written(tmp_path_factory.mktemp("short") / "short.trace", *DEEP, "--seed", 3, *SHORT)


def test_the_same_command_writes_the_same_bytes_and_another_seed_others(tmp_path: Path, short: Trace) -> None:
    one = content(short.path)
    same, other = (content(written(tmp_path / f"{seed}.trace", *DEEP, "--seed", seed, *SHORT).path) for seed in (3, 4))
    assert one == same
    assert one["tokens.parquet"] != other["tokens.parquet"]
    assert check(short.path) == []


def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, known = written(tmp_path / "whole.trace", *SHORT).path, SyntheticModel.request
    asked = []

    def failing(self: SyntheticModel, number: int, *lengths: Any) -> Any:
        if self.parameters.embedding:  # not when the search for the number of phrases draws some
            asked.append(number)
            if number == 9 and asked.count(9) == 1:
                raise KeyboardInterrupt
        return known(self, number, *lengths)

    monkeypatch.setattr(SyntheticModel, "request", failing)
    out = tmp_path / "a.trace"
    assert main(command(out, *SHORT)) == 130
    assert not out.exists()
    assert main(command(out, *SHORT)) == 0
    assert asked.count(0) == 1  # its part was kept
    assert content(out) == content(whole)
    assert not (tmp_path / "a.trace.partial").exists()


def test_a_trace_notes_what_it_was_drawn_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = written(tmp_path / "a.trace", "--overlap", "0.5", "--clusters", 5, "--drift", 0.2, "--seed", 7, *SHORT).meta
    assert (meta.kind, meta.model, meta.seed) == ("synthetic", "3x8-top2", 7)
    assert {"overlap": 0.5, "clusters": 5, "drift": 0.2, "lengths": "constant"}.items() <= meta.generation.items()
    assert meta.generation["expected"]["overlap"] == pytest.approx(0.5, abs=0.005)
    assert meta.notes is not None
    assert "drawn from a model, not recorded" in meta.notes
    printed = capsys.readouterr().out
    assert "(SYNTHETIC: generated, not recorded)" in printed
    assert re.search(r"overlap with the previous iteration +0\.500 +0\.50\d +0\.\d{3}\n", printed)


def test_a_published_model_gives_the_sizes(tmp_path: Path) -> None:
    words = ["synthetic", "--model", "mixtral-8x7b", "--layers", "2", "--requests", "3", "--output-tokens", "6"]
    assert main([*words, "--prompt-tokens", "2", "--out", str(tmp_path / "a.trace")]) == 0
    shape = Trace.open(tmp_path / "a.trace").shape
    assert (shape.name, shape.layers, shape.experts, shape.hidden) == ("mixtral-8x7b", 2, 8, 4096)
    assert shape.expert_bytes == 3 * 4096 * 14336 * 2


def test_lengths_and_arrivals_of_a_workload(tmp_path: Path) -> None:
    prompts, outputs = np.array([3, 9, 1, 5]), np.array([4, 1, 7, 12])
    arrival_s = np.array([0.0, 0.5, 0.5, 2.0])
    workload = Workload(arrival_s=arrival_s, prompt_tokens=prompts, output_tokens=outputs, source="hand-made")
    write_workload(tmp_path / "w.parquet", workload, {})
    words = ["synthetic", "--workload", tmp_path / "w.parquet", "--layers", 2, "--out", tmp_path / "a.trace"]
    assert main([str(word) for word in words]) == 0
    trace = Trace.open(tmp_path / "a.trace")
    infos = list(trace.infos.values())
    assert [one.prompt_tokens for one in infos] == prompts.tolist()
    assert [one.output_tokens for one in infos] == outputs.tolist()
    assert [one.arrival_s for one in infos] == arrival_s.tolist()
    assert check(trace.path) == []


def test_without_prefill_and_embeddings(tmp_path: Path) -> None:
    trace = written(tmp_path / "a.trace", "--no-prefill", "--no-embeddings", *SHORT)
    assert check(trace.path) == []
    assert (trace.meta.prefill, trace.meta.embedding) == (False, False)
    assert {(one.prompt_tokens, one.output_tokens) for one in trace.infos.values()} == {(None, 10)}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--overlap", "1.2"], "--overlap: must be at least 0 and at most 1, not 1.2"),
        (["--cluster-overlap", "0.1"], "--cluster-overlap: must be from 0.25 to 1, not 0.1"),
        (["--entropy", "4"], "--entropy: must be from 0 to 3, not 4"),
        (["--entropy", "sharp"], "--entropy: must be a number, not 'sharp'"),
        (["--overlap", "0.4,0.5"], "--overlap: must be one number, or one for each of the 3 layers, not (0.4, 0.5)"),
        (["--clusters", "0"], "--clusters: must be at least 1, not 0"),
        (["--clusters", "4001"], "--clusters: must be from 1 to 4000 (each needs 8 of 32000 tokens), not 4001"),
        (["--clusters", "1", "--topic-change", "0.1"], "--topic-change: must be 0 with a single cluster, not 0.1"),
        (
            ["--clusters", "1", "--cluster-overlap", "0.4"],
            "--cluster-overlap: cannot be set with one cluster, where --load-cv determines it",
        ),
        (["--trajectory-recall", "1.5"], "--trajectory-recall: must be at least 0 and at most 1, not 1.5"),
        (
            ["--trajectory-recall", "0.9", "--layers", "4", *SHORT],
            "--trajectory-recall: cannot be 0.9: the nearest value possible with the other statistics is 0.",
        ),
        (
            ["--trajectory-recall", "0.5"],
            "--trajectory-recall: needs more than 3 layers, but there are 3",
        ),
        (["--lookahead", "3"], "--lookahead: must be from 1 to 2 layers, not 3"),
        (["--lookahead-recall", "0.9"], "--lookahead-recall: needs --lookahead"),
        (["--top-k", "9"], "--top-k: must be at most 8, the number of experts in a layer, not 9"),
        (["--experts", "0"], "--experts: must be at least 1, not 0"),
        (["--model", "mixtral-8x7b"], "--experts: cannot be set, because mixtral-8x7b has 8"),
        (["--model", "mixtral"], "unknown model 'mixtral'; did you mean 'mixtral-8x7b'?"),
        (["--requests", "0"], "--requests: must be at least 1, not 0"),
        (["--requests", "1"], TOO_FEW),
        (["--output-tokens", "3"], TOO_FEW),
        (["--seed", "-1"], "--seed: must be at least 0, not -1"),
        (
            ["--request-overlap", "0.3", "--cluster-overlap", "0.5", *SHORT],
            "--request-overlap: cannot be 0.3 in layer",
        ),
        (
            ["--load-cv", "1.5", "--cluster-overlap", "0.4", *SHORT],
            "--cluster-overlap: cannot be 0.4 in layer",
        ),  # all share more
    ],
)
def test_mistakes_are_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(command(tmp_path / "a.trace", *more)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_an_existing_trace_is_not_replaced(tmp_path: Path, short: Trace, capsys: pytest.CaptureFixture[str]) -> None:
    out = shutil.copytree(short.path, tmp_path / "a.trace")
    before = content(out)
    assert main(command(out, "--seed", "5", *SHORT)) == 2
    assert (
        f"error: {out} exists already; choose another name, or replace it with --overwrite\n" in capsys.readouterr().err
    )
    assert content(out) == before
    assert main(command(out, "--seed", "5", "--overwrite", *SHORT)) == 0
    assert content(out) != before


def test_a_trace_never_takes_the_place_of_the_one_that_it_is_like(
    tmp_path: Path, short: Trace, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(short.path, tmp_path / "a.trace")
    before = content(out)
    assert main(["synthetic", "--like", str(out), "--out", str(out), "--overwrite"]) == 2
    assert capsys.readouterr().err.endswith(f"error: {out} cannot be replaced: this command reads it\n")
    assert content(out) == before


# ---- like another trace ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path = tmp_path_factory.mktemp("known") / "known.trace"
    return drawn(path, parameters({"clusters": 6, "lookahead": {2: 0.7}}, cluster_overlap=0.40), 72, output=60)


@pytest.fixture(scope="module")
def measured(known: Trace) -> Measured:
    return measure(known)


def test_the_parameters_of_a_synthetic_trace_come_back(measured: Measured) -> None:
    found = measured
    assert found.clusters == 6
    assert found.silhouette is not None
    assert found.silhouette > 0.2
    assert found.lookahead == pytest.approx({2: 0.7}, abs=0.02)
    assert found.statistics.mean() == pytest.approx(ASKED | {"cluster_overlap": 0.40}, abs=0.025)


def test_the_fit_finds_what_is_counted_by_hand(known: Trace, measured: Measured) -> None:
    found, hand = measured.statistics, by_hand(known)
    for name in ("entropy_bits", "overlap", "load_cv"):
        np.testing.assert_allclose(getattr(found, name), hand[name], atol=2e-3)
    for name in ("request_overlap", "cluster_overlap", "token_overlap"):  # by hand of other pairs of the same kind
        np.testing.assert_allclose(getattr(found, name), hand[name], atol=0.04)


def test_a_trace_like_another_has_its_shape_lengths_and_statistics(
    known: Trace, measured: Measured, tmp_path: Path
) -> None:
    trace = like(known.path, tmp_path / "like.trace", "--seed", 11)
    assert check(trace.path) == []
    assert (trace.shape, trace.meta.lookahead) == (known.shape, known.meta.lookahead)
    assert trace.meta.generation["like_sha256"] == known.digest
    columns = ["prompt_tokens", "output_tokens", "arrival_s"]
    assert trace.requests[columns].equals(known.requests[columns])
    one, other = measured, measure(trace)
    assert other.clusters == one.clusters
    assert other.statistics.mean() == pytest.approx(one.statistics.mean(), abs=0.025)
    first, second = trace.read(0), known.read(0)
    assert first.gate.tobytes() != second.gate.tobytes()


@pytest.mark.slow  # `test_pocket_statistics_come_back` compares layers, too
def test_layers_of_the_other_trace_come_back_one_by_one(tmp_path: Path) -> None:
    overlap = np.linspace(0.45, 0.8, LAYERS)
    source = drawn(tmp_path / "source.trace", parameters(overlap=overlap, token_overlap=0.4))
    trace = like(source.path, tmp_path / "like.trace", "--requests", 80)
    one, other = (by_hand(each)["overlap"] for each in (source, trace))
    np.testing.assert_allclose(other, one, atol=0.04)
    assert len(trace) == 80


def test_given_statistics_override_fitted_ones(short: Trace, tmp_path: Path) -> None:
    more = ["--entropy", 0.5, "--clusters", 3, "--output-tokens", 30, "--requests", 10]
    meta = like(short.path, tmp_path / "like.trace", *more).meta
    assert (meta.generation["entropy_bits"], meta.generation["clusters"]) == (0.5, 3)
    assert {one.output_tokens for one in Trace.open(tmp_path / "like.trace").infos.values()} == {30}


def test_incomplete_gates_stay_incomplete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = drawn(tmp_path / "source.trace", parameters({"gate_complete": False}, entropy_bits=0.8), 12, output=40)
    trace = like(source.path, tmp_path / "like.trace")
    assert not trace.meta.gate_complete
    assert check(trace.path) == []
    assert np.mean(by_hand(trace)["entropy_bits"]) == pytest.approx(0.8, abs=0.03)
    assert "cover only the executed experts" in capsys.readouterr().out


def test_too_few_requests_to_fit_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = drawn(tmp_path / "one.trace", parameters(), 1, calibration=calibrated())
    assert main(["synthetic", "--like", str(source.path), "--out", str(tmp_path / "a.trace")]) == 2
    expected = f"error: {source.path}: measuring needs two requests, one of them with 3 decode iterations\n"
    assert expected in capsys.readouterr().err


def test_clusters_are_only_found_where_there_are_some() -> None:
    rng = np.random.default_rng(0)
    assert clusters_of(rng.random((60, 4, 8), np.float32))[0].max() == 0
    centres = rng.random((5, 4, 8), np.float32)
    labels, silhouette = clusters_of(centres[np.arange(60) % 5] + 0.05 * rng.random((60, 4, 8), np.float32))
    assert len(np.unique(labels)) == 5
    assert all(len(np.unique(labels[one::5])) == 1 for one in range(5))
    assert silhouette is not None
    assert silhouette > 0.5


def test_same_tokens_are_compared_between_requests_only(known: Trace) -> None:
    tokens = SameToken(known.shape, {0})
    for request in (0, 1):
        recorded = known.read(request)
        tokens.add(iterations_of(recorded, True), recorded.token)
    assert tokens.overlap() is None


def test_pocket_statistics_come_back(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the pocket model needs torch")
    pytest.importorskip("transformers", reason="the pocket model needs transformers")
    from traces import pocket

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in pocket.demo_prompts()[:16]))
    words = ["collect", "pocket", "--prompts", prompts, "--max-new-tokens", 24, "--threads", 1, "--out"]
    assert main([str(word) for word in [*words, tmp_path / "pocket.trace"]]) == 0
    trace = like(tmp_path / "pocket.trace", tmp_path / "like.trace", "--requests", 40)
    one, other = analysed(tmp_path / "pocket.trace"), analysed(trace.path)
    assert trace.meta.embedding
    for name in ("fine_bits", "overlap"):
        here, there = ([each[name] for each in found["per_layer"]] for found in (one, other))
        scale = 3 if name == "fine_bits" else 1
        assert np.mean(there) / scale == pytest.approx(np.mean(here) / scale, abs=0.03)
        np.testing.assert_allclose(np.array(there) / scale, np.array(here) / scale, atol=0.08)
    before, after = (measure(Trace.open(each)).statistics for each in (tmp_path / "pocket.trace", trace.path))
    assert np.mean(after.cluster_overlap) == pytest.approx(np.mean(before.cluster_overlap), abs=0.03)
    assert np.mean(after.load_cv) == pytest.approx(np.mean(before.load_cv), abs=0.06)


@pytest.mark.long
@pytest.mark.skipif(not GPT_OSS.exists(), reason=f"{GPT_OSS} is not there; FINEMOE_DATA names another place")
def test_the_overlaps_of_gpt_oss_come_back_layer_by_layer(tmp_path: Path) -> None:
    source = tmp_path / "gpt-oss.trace"
    words = ["convert", "npz", GPT_OSS, "--model", "gpt-oss-20b", "--max-requests", 40, "--out", source]
    assert main([str(word) for word in words]) == 0
    trace = like(source, tmp_path / "like.trace", "--output-tokens", 150)
    assert not trace.meta.gate_complete
    one, other = analysed(source), analysed(trace.path)
    for name, near in (("overlap", 0.04), ("fine_bits", 0.06)):
        here, there = ([each[name] for each in found["per_layer"]] for found in (one, other))
        np.testing.assert_allclose(there, here, atol=near)
        assert np.mean(there) == pytest.approx(np.mean(here), abs=near / 2)


def test_a_plan_of_other_lengths_is_another_trace(tmp_path: Path) -> None:
    one, other = (Lengths.constant(3, 2, output) for output in (4, 5))
    assert one.sha256 != other.sha256
    paths = [
        generate(parameters(), calibrated(), each, tmp_path / f"{each.output_tokens[0]}.trace", notes={})
        for each in (one, other)
    ]
    assert content(paths[0]) != content(paths[1])
