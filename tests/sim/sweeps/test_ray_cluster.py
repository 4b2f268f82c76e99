"""Sweeps on a Ray cluster of two nodes, both on this host."""

import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from common.files import host, is_alive
from sim.store.result_store import ResultStore
from sim.store.run_journal import JournalLine
from tests.support.ray_helpers import (
    SLOW_POLICY,
    SweepFolder,
    TwoNodes,
    children_of,
    descendants_of,
    listening_addresses,
    needs_ray,
    two_nodes,
)

pytestmark = [needs_ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with two_nodes(slow_s=0.3) as nodes:
        yield nodes


def elsewhere(alone: tuple[int, str, str]) -> tuple[int, str, str]:
    """What the run prints if it writes to `there.sweep`."""
    status, out, errors = alone
    return status, out.replace("alone.sweep", "there.sweep"), errors


def test_two_nodes_give_the_bytes_of_one_process(cluster: TwoNodes, trace: Path, tmp_path: Path) -> None:
    sweep = SweepFolder.made(tmp_path, trace, policies=("lru", "finemoe", "slowly:policy"), seeds=3)
    alone = sweep.run("--store", "alone", "--out", "alone.sweep", "--jobs", "1")
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    there = sweep.run("--store", "there", "--out", "there.sweep", address=cluster.address)
    assert elsewhere(alone) == there
    assert alone[0] == 0
    assert alone[2] == ""
    assert "9 done" in alone[1]
    assert sweep.bytes_of("alone", "alone.sweep") == sweep.bytes_of("there", "there.sweep")
    assert set(sweep.counts("there")["started"].values()) == {1}
    assert len(list(meeting.iterdir())) == 2  # each node has one processor


def test_an_interrupted_sweep_leaves_no_running_process_and_resumes(
    cluster: TwoNodes, trace: Path, tmp_path: Path
) -> None:
    sweep = SweepFolder.made(tmp_path, trace, policies=("slowly:policy",), seeds=20)
    process = sweep.start("--store", "store", address=cluster.address)
    sweep.waits_until("store", lambda lines: sum(line.event == "finished" for line in lines) >= 3)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, out, errors) == (130, "", "interrupted; run the same command again to resume\n")
    before = sweep.counts("store")
    assert sum(before["started"].values()) < 20
    status, out, errors = sweep.run("--store", "store", "--out", "sweep", address=cluster.address)
    assert (status, errors) == (0, "")
    assert "20 done" in out
    after = sweep.counts("store")
    assert len(after["finished"]) == 20
    assert set(after["finished"].values()) == {1}
    assert sum(after["started"].values()) <= 20 + 2  # what was running on either node


def test_a_killed_node_costs_only_the_runs_on_it(trace: Path, tmp_path: Path) -> None:
    sweep = SweepFolder.made(tmp_path, trace, policies=("slowly:policy",), seeds=16)
    alone = sweep.run("--store", "alone", "--out", "alone.sweep", "--jobs", "1")
    with two_nodes(slow_s=0.7) as cluster:
        process = sweep.start("--store", "there", "--out", "there.sweep", address=cluster.address)
        second = cluster.raylets[1]
        sweep.waits_until("there", lambda lines: _is_under_way(lines, children_of(second), runs=2))
        killed = cluster.kill_second()
        lost = _unfinished(sweep, killed)
        out, errors = process.communicate(timeout=120)
    assert (process.returncode, out, errors) == elsewhere(alone)
    assert "16 done" in out
    assert sweep.bytes_of("alone", "alone.sweep") == sweep.bytes_of("there", "there.sweep")
    counts = sweep.counts("there")
    assert set(counts["finished"].values()) == {1}
    assert len(counts["finished"]) == 16
    assert len(lost) == 1  # the node has one processor
    assert {key for key, times in counts["started"].items() if times > 1} == lost
    assert sum(counts["started"].values()) == 17


def _is_under_way(lines: Sequence[JournalLine], workers: set[int], *, runs: int) -> bool:
    """Whether these processes have finished so many runs, and are in the middle of another."""
    events = [line.event for line in lines if int(line.process.rpartition("-")[2]) in workers]
    return events.count("finished") >= runs and events[-1] == "started"


def _unfinished(sweep: SweepFolder, workers: set[int]) -> set[str]:
    """The runs that these processes have begun and not ended."""
    begun = set()
    for line in sweep.lines("there"):
        if int(line.process.rpartition("-")[2]) in workers:
            begun.symmetric_difference_update({line.key})
    return begun


def test_a_run_whose_process_dies_every_time_ends_the_sweep_in_one_line(
    cluster: TwoNodes, trace: Path, tmp_path: Path
) -> None:
    sweep = SweepFolder.made(tmp_path, trace, policies=("lru", "deadly:policy"), seeds=1)
    (tmp_path / "deadly.py").write_text(SLOW_POLICY.replace("time.sleep", "os.abort(), time.sleep"))
    status, out, errors = sweep.run("--store", "store", address=cluster.address)
    assert (status, out) == (2, "")
    assert errors == (
        "error: a process that ran scenarios died, 6 times in a row, possibly out of memory; run the same command "
        "again to resume\n"
    )
    assert len(sweep.counts("store")["finished"]) == 1


@pytest.mark.long
def test_a_path_that_a_node_does_not_see_is_an_error_with_host_and_path(trace: Path, tmp_path: Path) -> None:
    hidden, store = tmp_path / "hidden", tmp_path / "seen" / "store"
    hidden.mkdir()
    ResultStore.open(store)
    ResultStore.open(tmp_path / "other")
    mounts = f"mount -t tmpfs none {hidden} && mount --bind {tmp_path / 'other'} {store}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mounts], capture_output=True).returncode:
        pytest.skip("this machine does not let users mount in a namespace of their own")
    plain = SweepFolder.made(tmp_path / "seen" / "sweep", trace, policies=("lru",), seeds=2)
    hidden_trace = str(hidden / "small.trace")
    far = SweepFolder.made(tmp_path / "seen" / "far", trace, policies=("lru",), seeds=2, trace_at=hidden_trace)
    unseen = SweepFolder.made(hidden / "sweep", trace, policies=("lru",), seeds=2)
    beside = str(tmp_path / "seen" / "usual")
    cases = [
        (plain, str(hidden / "store"), f": {hidden}/store: does not exist"),
        (plain, str(store), f": {store} is not the store that the sweep uses"),
        (far, beside, f", in {far.path}: {hidden_trace}"),
        (unseen, beside, f": cannot enter {unseen.path}: No such file or directory"),
    ]
    with two_nodes(within=["unshare", "-rm", "sh", "-c", f'{mounts} && exec "$@"', "sh"]) as cluster:
        for sweep, place, said in cases:
            status, out, errors = sweep.run("--store", place, address=cluster.address)
            assert (status, out) == (2, "")
            assert errors.startswith(f"error: worker on {host()}{said}")
            assert errors.count("\n") == 1


def test_without_an_address_ray_starts_on_this_machine_for_this_machine_only(trace: Path, tmp_path: Path) -> None:
    sweep = SweepFolder.made(tmp_path, trace, policies=("slowly:policy", "lru"), seeds=4)
    alone = sweep.run("--store", "alone", "--out", "alone.sweep", "--jobs", "1")
    process = sweep.start("--store", "there", "--out", "there.sweep", "--backend", "ray", slow_s=0.7)
    sweep.waits_until("there", lambda lines: any(line.event == "finished" for line in lines))
    family = descendants_of(process.pid)
    addresses = listening_addresses(family)
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, out, errors) == elsewhere(alone)
    assert sweep.bytes_of("alone", "alone.sweep") == sweep.bytes_of("there", "there.sweep")
    assert addresses == {"127.0.0.1"}
    assert not any(is_alive(each) for each in family)
