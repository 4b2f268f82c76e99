"""The authors' exported store becomes a trace, and policies learn from it for runs on another trace."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.prediction.cosine import nearest
from policies.systems.finemoe import finemoe
from sim.__main__ import main as sim
from tests.support.builders import setup_of
from tests.support.convert_helpers import SHAPE, convert, converted, reported
from tests.support.run_helpers import arguments
from tests.support.trace_helpers import content, small_shape, small_trace
from traces.format.reader import Requests


def export(folder: Path, maps: Any, embeddings: Any, capacity: int = 8) -> Path:
    """As `export_store_data`: float32 of the whole capacity, zero where nothing has been stored."""
    for name, values in (("traj", maps), ("embed", embeddings)):
        whole = np.zeros((capacity, *np.shape(values)[1:]), np.float32)
        whole[: len(values)] = values
        np.save(folder / f"small~{name}~{capacity}.npy", whole, allow_pickle=False)
    return folder / f"small~traj~{capacity}.npy"


def some_maps(count: int) -> Any:
    values = np.random.default_rng(7).random((count, 3, 6)) + 0.01
    return values / values.sum(-1, keepdims=True)


BY_HAND = np.array(
    [
        [[0.5, 0.25, 0.125, 0.125, 0, 0], [0, 0, 0, 0, 0.25, 0.75], [0.25, 0.25, 0.25, 0.25, 0, 0]],
        [[0, 0, 1, 0, 0, 0], [0.5, 0.5, 0, 0, 0, 0], [0, 0, 0.125, 0.5, 0.375, 0]],
    ]
)


def test_a_store_by_hand(tmp_path: Path) -> None:
    trace = converted("store", export(tmp_path, BY_HAND, [[1, 2, 3, 4], [0.5, 0, 0, -1]]))
    assert (trace.meta.kind, trace.meta.prefill, trace.meta.gate_complete) == ("imported", False, True)
    assert trace.request_ids == [0, 1]  # the six empty slots are none
    assert [info.split for info in trace.infos.values()] == ["train", "train"]
    first, second = trace.iter()
    assert first.gate.tolist() == [BY_HAND[0].tolist()]
    assert first.experts.tolist() == [[[0, 1], [5, 4], [0, 1]]]  # top-2, ties to the lower number
    assert second.experts.tolist() == [[[2, 0], [0, 1], [3, 4]]]
    assert first.embedding is not None
    assert first.embedding.tolist() == [[1, 2, 3, 4]]
    assert second.embedding is not None
    assert second.embedding.tolist() == [[0.5, 0, 0, -1]]
    notes = trace.meta.notes or ""
    assert "FineMoE's store small~traj~8.npy, SHA-256 " in notes
    assert "FineMoE's store small~embed~8.npy, SHA-256 " in notes


def test_equal_embeddings_are_one_token_and_the_later_format_is_read_too(tmp_path: Path) -> None:
    vectors = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]], np.float32)
    np.savez(tmp_path / "s.npz", version=np.array(1), maps=some_maps(3).astype(np.float32), embeds=vectors)
    trace = converted("store", tmp_path / "s.npz")
    tokens = [int(one.token[0]) for one in trace.iter()]
    assert tokens[0] == tokens[2] != tokens[1]


def test_without_embeddings_the_maps_are_enough(tmp_path: Path) -> None:
    file = export(tmp_path, some_maps(3), np.zeros((3, 4)))
    (tmp_path / "small~embed~8.npy").unlink()
    trace = converted("store", file)
    assert not trace.meta.embedding
    assert "tokens are written as 0" in (trace.meta.notes or "")


def test_entries_that_lack_layers_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maps = some_maps(4)
    maps[1, 1:] = 0
    trace = converted("store", export(tmp_path, maps, np.eye(4)))
    assert [info.source for info in trace.infos.values()] == [f"small~traj~8/{row}" for row in (0, 2, 3)]
    assert "1 entries without all layers were skipped" in (trace.meta.notes or "")
    maps[:, 2] = 0
    file = export(tmp_path, maps, np.eye(4))
    line = reported(capsys, lambda: convert("store", file, name="b.trace"))
    assert line == f"{file}: no entry has all 3 layers; the most complete has 2"


def test_finemoe_s_store_begins_with_the_authors_entries(tmp_path: Path) -> None:
    maps = some_maps(5).astype(np.float16)
    maps = (maps / maps.sum(-1, keepdims=True)).astype(np.float16)
    vectors = np.arange(20).reshape(5, 4) + 1.0
    trace = converted("store", export(tmp_path, maps, vectors))
    policy = finemoe(fill="redundancy", capacity=5)
    policy.prefetcher.start(setup_of(SHAPE, Requests(trace)))
    store: Any = policy.prefetcher._store  # type: ignore[attr-defined]
    assert store.count == 5
    for layer in range(3):
        np.testing.assert_array_equal(store.maps(np.arange(5), layer), maps[:, layer].astype(np.float32))
    assert nearest(store.nearness(vectors * 3)).index.tolist() == [0, 1, 2, 3, 4]


# ---- sim run --history -----------------------------------------------------------------------------------------------


def simulated(capsys: pytest.CaptureFixture[str], trace: Path, *more: Any) -> dict[str, Any]:
    options = ["--cache-experts", 6, "--machine", "rtx3090", "--json", *more]
    assert sim(arguments(trace, *options, policies=("lru", "finemoe"))) == 0
    return {each["policy"]: each for each in json.loads(capsys.readouterr().out)}


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return small_trace(tmp_path / "test.trace", 6, shape=SHAPE, lookahead=())


def test_a_policy_learns_from_the_history_alone(
    tmp_path: Path, recorded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = converted("store", export(tmp_path, some_maps(8), np.random.default_rng(1).random((8, 4))))
    seen: dict[str, Any] = {}
    from policies.systems.finemoe import ExpertMapPrefetcher

    start = ExpertMapPrefetcher.start

    def seeing(self: Any, setup: Any) -> None:
        seen["sources"] = [one.source for one in setup.history]
        seen["embedding"] = [one.embedding is not None for one in setup.history]
        seen["run"] = []
        start(self, setup)

    def beginning(self: Any, request: int) -> None:
        seen["run"].append(request)

    monkeypatch.setattr(ExpertMapPrefetcher, "start", seeing)
    monkeypatch.setattr(ExpertMapPrefetcher, "on_request_start", beginning)
    capsys.readouterr()
    plain = simulated(capsys, recorded)
    run = seen["run"]
    learned = simulated(capsys, recorded, "--history", store.path, "--out", tmp_path / "results")
    assert seen["sources"] == [info.source for info in store.infos.values()]
    assert all(seen["embedding"])
    assert seen["run"] == run  # the same requests as without
    assert learned["lru"] == plain["lru"]  # which learns nothing
    assert learned["finemoe"] != plain["finemoe"]
    run, *_ = json.loads((tmp_path / "results" / "meta.json").read_text())["runs"]
    history = {"name": "out.trace", "kind": "imported", "model": store.shape.name, "digest": store.digest}
    assert history.items() <= run["provenance"]["history"].items()
    simulated(capsys, recorded, "--history", store.path, "--train-split", 0)
    assert len(seen["run"]) == 6


@pytest.mark.parametrize("of_the_history", [True, False])
def test_embeddings_that_only_one_of_the_two_has_are_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], of_the_history: bool
) -> None:
    file = export(tmp_path, some_maps(8), np.random.default_rng(1).random((8, 4)))
    if not of_the_history:
        (tmp_path / "small~embed~8.npy").unlink()
    store = converted("store", file)
    trace = small_trace(tmp_path / "test.trace", 6, shape=SHAPE, lookahead=(), embedding=not of_the_history)
    options = ["--history", store.path, "--train-split", 0, "--cache-experts", 6, "--machine", "rtx3090"]
    capsys.readouterr()
    assert sim(arguments(trace, *options, policies=("finemoe",))) == 0
    out = capsys.readouterr().out
    assert "learned from out.trace (imported)" in out
    assert "finemoe: the trace has no embeddings, so it searches by trajectory only" in out


def test_a_history_of_another_model_is_refused(
    tmp_path: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = small_trace(tmp_path / "other.trace", 2, shape=small_shape(experts=7))
    line = reported(capsys, lambda: sim(arguments(recorded, "--history", other, policies=("lru",))))
    assert line == f"--history: {other}: shape.experts must be 6 as in {recorded}, not 7"


# ---- mistakes --------------------------------------------------------------------------------------------------------


def negative(maps: Any) -> None:
    maps[2, 1, :2] = [-0.5, 0.5]


def too_much(maps: Any) -> None:
    maps[1, 2] = 0.5


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (negative, "row 2, layer 1, field maps: must be finite and at least 0, not -0.5"),
        (too_much, "row 1, layer 2, field maps: must sum to 1 within 0.005, not 3.0"),
    ],
)
def test_what_is_wrong_with_an_entry_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, line: str
) -> None:
    maps = some_maps(4)
    change(maps)
    file = export(tmp_path, maps, np.eye(4))
    assert reported(capsys, lambda: convert("store", file)) == f"{file}: {line}"
    assert not list(tmp_path.glob("*.trace*"))


def test_what_is_no_store_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = export(tmp_path, some_maps(4)[:, :2], np.eye(4))
    line = reported(capsys, lambda: convert("store", file))
    assert line == f"{file}: field maps: must be float [entries, 3, 6] for small, not float32 [8, 2, 6]"
    file = export(tmp_path, some_maps(4), np.eye(4)[:, :3])
    embeddings = tmp_path / "small~embed~8.npy"
    line = reported(capsys, lambda: convert("store", file))
    assert line == f"{embeddings}: field embeds: must be float [entries, 4] for small, not float32 [8, 3]"
    np.save(embeddings, np.zeros((7, 4), np.float32))
    line = reported(capsys, lambda: convert("store", file))
    assert line == f"{embeddings}: must have 8 rows, as many as {file.name}, not 7"
    np.save(embeddings, np.full((8, 4), 1e9, np.float32))
    line = reported(capsys, lambda: convert("store", file))
    assert line == f"{embeddings}: row 0, field embeds: must be finite as float16"
    file.write_bytes(b"\x93NUMPY")
    assert f"{file}: is not a NumPy array: " in reported(capsys, lambda: convert("store", file))
    assert "no.npy: does not exist" in reported(capsys, lambda: convert("store", tmp_path / "no.npy"))
    np.savez(tmp_path / "v.npz", version=np.array(2), maps=some_maps(1), embeds=np.eye(4)[:1])
    line = reported(capsys, lambda: convert("store", tmp_path / "v.npz"))
    assert line == f"{tmp_path}/v.npz: field version: must be 1, not 2"


def test_bytes_do_not_depend_on_the_run(tmp_path: Path) -> None:
    file = export(tmp_path, some_maps(8), np.random.default_rng(1).random((8, 4)))
    first = content(converted("store", file).path)
    assert content(converted("store", file).path) == first
