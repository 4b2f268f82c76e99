"""The result store: what is put in comes out, whoever asks, and nothing that is broken."""

import json
import multiprocessing
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.pool import Pool
from pathlib import Path

import pytest

from common.errors import UserError
from sim.content_hash import RunKeys
from sim.inputs import Inputs, resolve
from sim.results.result import Result
from sim.scenario import CacheSize, Scenario
from sim.simulation import simulate
from sim.store.result_store import ResultStore, StoreError


@pytest.fixture
def scenario(trace: Path) -> Scenario:
    return Scenario(trace, policy="lru", machine="rtx3090")


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore.open(tmp_path / "store")


def put(store: ResultStore, scenario: Scenario) -> tuple[str, Inputs, Result]:
    inputs, keys = resolve(scenario), RunKeys()
    facts = keys.facts(scenario, inputs)
    key = keys.of(scenario, inputs)
    assert facts is not None
    assert key is not None
    result = simulate(scenario, inputs)
    store.put(key, result, facts)
    return key, inputs, result


def run_folder(store: ResultStore) -> Path:
    (run,) = store.runs()
    return run.path


@pytest.mark.parametrize("detail", ["requests", "iterations", "events"])
def test_a_stored_result_is_returned_bit_for_bit(store: ResultStore, scenario: Scenario, detail: str) -> None:
    asked = replace(scenario, detail=detail)
    key, inputs, result = put(store, asked)
    assert store.find(key, asked, inputs) == result


def test_equal_runs_have_equal_bytes_and_get_the_readers_names(tmp_path: Path, scenario: Scenario) -> None:
    """Two machines have the trace in different places and give the size of the cache in different ways."""
    copy = tmp_path / "another name.trace"
    shutil.copytree(scenario.trace, copy)
    other = replace(scenario, trace=copy, cache=CacheSize(experts=8), label="mine", requests=3)
    stores = [ResultStore.open(tmp_path / name) for name in ("a", "b")]
    (key, _, _), (same, inputs, result) = put(stores[0], scenario), put(stores[1], other)
    assert key == same
    files = [{path.name: path.read_bytes() for path in run_folder(store).iterdir()} for store in stores]
    assert files[0] == files[1]
    assert stores[0].find(key, other, inputs) == result


def test_less_detail_is_derived_from_more_but_not_the_reverse(store: ResultStore, scenario: Scenario) -> None:
    key, inputs, result = put(store, scenario)
    rough, fine = replace(scenario, detail="requests"), replace(scenario, detail="events")
    assert store.find(key, rough, inputs) == result.trimmed(rough)
    assert store.find(key, fine, inputs) is None
    put(store, fine)
    assert store.find(key, fine, inputs) is not None
    put(store, rough)
    assert store.find(key, fine, inputs) is not None  # the finer one stays


def test_an_unchecked_run_does_not_serve_a_checked_scenario(store: ResultStore, scenario: Scenario) -> None:
    key, inputs, _ = put(store, scenario)
    assert store.find(key, replace(scenario, check=True), inputs) is None
    put(store, replace(scenario, check=True))
    assert store.find(key, replace(scenario, check=True), inputs) is not None
    assert store.find(key, scenario, inputs) is not None


def test_any_flipped_byte_is_noticed_and_the_run_is_computed_again(store: ResultStore, scenario: Scenario) -> None:
    key, inputs, result = put(store, scenario)
    for path in sorted(run_folder(store).iterdir()):
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 2):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert not store.has(key, scenario)
            assert store.find(key, scenario, inputs) is None
        path.write_bytes(whole[:-1])
        assert store.summary(key) is None
    put(store, scenario)
    assert store.find(key, scenario, inputs) == result


def test_a_missing_file_is_noticed(store: ResultStore, scenario: Scenario) -> None:
    key, inputs, _ = put(store, scenario)
    (run_folder(store) / "requests.parquet").unlink()
    assert store.find(key, scenario, inputs) is None


def test_bounds_and_failures_are_kept_and_a_flipped_byte_in_them_is_noticed(store: ResultStore) -> None:
    key = "ab" * 32
    store.put_bound(key, 1.25, {"of": "a test"})
    store.put_failure(key, "lru", "it broke")
    assert store.bound_s(key) == 1.25
    assert store.failure(key) == "it broke"
    for path in store.folder.rglob(f"{key}.json"):
        path.write_text(path.read_text().replace("1.25", "1.75").replace("broke", "bloke"))
    assert store.bound_s(key) is None
    assert store.failure(key) is None


def test_a_run_that_succeeds_clears_its_failure(store: ResultStore, scenario: Scenario) -> None:
    key = RunKeys().of(scenario, resolve(scenario))
    assert key is not None
    store.put_failure(key, "lru", "out of memory")
    put(store, scenario)
    assert store.failure(key) is None


def test_a_store_of_another_schema_version_is_refused(store: ResultStore) -> None:
    about = store.folder / "store.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"schema_version": 99}))
    with pytest.raises(StoreError, match=r"store\.json: field schema_version: must be 1, not 99; choose another"):
        ResultStore.open(store.folder)


def test_a_folder_of_something_else_is_not_taken_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="is neither empty nor a result store"):
        ResultStore.open(tmp_path)
    with pytest.raises(StoreError, match=r"store\.json is missing"):
        ResultStore.open(tmp_path, create=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"schema_version": 1}'])
def test_a_broken_description_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(UserError, match=r"store\.json does not describe a result store") as raised:
        ResultStore.open(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_store_where_nothing_can_be_written_says_so(tmp_path: Path, store: ResultStore) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot create a store here: "):
        ResultStore.open(tmp_path / "file" / "store")
    shutil.rmtree(store.folder / "runs", ignore_errors=True)
    (store.folder / "runs").write_text("in the way")
    with pytest.raises(StoreError, match="the store cannot be written: "):
        store.check_writable()


def test_a_full_disk_ends_in_one_line_and_keeps_what_was_there(
    store: ResultStore, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, inputs, result = put(store, scenario)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sim.results.result.write_frame", full)
    with pytest.raises(StoreError, match=r"a run could not be stored: .*No space left on device"):
        put(store, replace(scenario, policy="lfu"))
    assert store.find(key, scenario, inputs) == result
    assert len(list(store.runs())) == 1


_meeting: threading.Barrier | None = None


def _meet_at(barrier: threading.Barrier) -> None:
    global _meeting
    _meeting = barrier


def _meet() -> None:
    """Wait until the other process has come as far."""
    assert _meeting is not None
    _meeting.wait(120)


@pytest.fixture(scope="module")
def two() -> Iterator[Pool]:
    """Two processes, which start what they are given at the same time, one each."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, initializer=_meet_at, initargs=(context.Barrier(2),)) as pool:
        yield pool


def _put_again(folder: Path, scenario: Scenario, rounds: int) -> str:
    store, inputs, keys = ResultStore.open(folder), resolve(scenario), RunKeys()
    facts, key = keys.facts(scenario, inputs), keys.of(scenario, inputs)
    assert facts is not None
    assert key is not None
    result = simulate(scenario, inputs)
    _meet()
    try:
        for _ in range(rounds):
            with suppress(FileNotFoundError):  # another one replaces it
                (folder / "runs" / key[:2] / key / "requests.parquet").write_bytes(b"broken")
            store.put(key, result, facts)
            store.find(key, scenario, inputs)
            list(store.runs())
    except Exception as error:
        return repr(error)
    return ""


def test_processes_that_replace_one_run_at_once_do_not_get_in_each_other_s_way(
    store: ResultStore, scenario: Scenario, two: Pool
) -> None:
    key, inputs, result = put(store, scenario)
    given = [(store.folder, replace(scenario, detail=detail), 10) for detail in ("events", "iterations")]
    assert two.starmap_async(_put_again, given, chunksize=1).get(timeout=120) == [""] * 2
    put(store, scenario)
    assert store.find(key, scenario, inputs) == result


def _open(folder: Path) -> str:
    _meet()
    return ResultStore.open(folder).identity


def test_a_store_that_several_processes_make_at_once_is_one_store(tmp_path: Path, two: Pool) -> None:
    ids = two.map_async(_open, [tmp_path / "store"] * 2, chunksize=1).get(timeout=120)
    assert len(ids) == 2
    assert len(set(ids)) == 1
    assert [path.name for path in (tmp_path / "store").iterdir() if path.name.startswith(".")] == []
