"""Sweeps on a Ray cluster of two nodes, both on this host."""

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sim.store.run_journal import JournalLine
from tests.support.ray_helpers import SweepFolder, TwoNodes, children_of, two_nodes


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with two_nodes(slow_s=0.3) as nodes:
        yield nodes


def test_two_nodes_give_the_bytes_of_one_process(cluster: TwoNodes, trace: Path, tmp_path: Path) -> None:
    sweep = SweepFolder.made(tmp_path, trace, policies=("lru", "finemoe", "slowly:policy"), seeds=3)
    alone = sweep.run("--store", "alone", "--out", "alone.sweep", "--jobs", "1")
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    there = sweep.run("--store", "there", "--out", "there.sweep", address=cluster.address)
    assert alone == there
    assert alone[0] == 0
    assert alone[2] == ""
    assert "9 done" in alone[1]
    assert sweep.bytes_of("alone", "alone.sweep") == sweep.bytes_of("there", "there.sweep")
    assert set(sweep.counts("there")["started"].values()) == {1}
    assert len(list(meeting.iterdir())) == 2  # each node has one processor


@pytest.mark.slow
def test_a_sweep_that_is_interrupted_leaves_no_run_behind_and_goes_on(
    cluster: TwoNodes, trace: Path, tmp_path: Path
) -> None:
    sweep = SweepFolder.made(tmp_path, trace, policies=("slowly:policy",), seeds=20)
    process = sweep.start("--store", "store", address=cluster.address)
    sweep.waits_until("store", lambda lines: sum(line.event == "finished" for line in lines) >= 3)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out, errors) == (130, "", "interrupted; run the same command again\n")
    before = sweep.counts("store")
    assert sum(before["started"].values()) < 20
    status, out, errors = sweep.run("--store", "store", "--out", "sweep", address=cluster.address)
    assert (status, errors) == (0, "")
    assert "20 done" in out
    after = sweep.counts("store")
    assert len(after["finished"]) == 20
    assert set(after["finished"].values()) == {1}
    assert sum(after["started"].values()) <= 20 + 2  # what was running on either node


@pytest.mark.slow
def test_a_node_killed_in_the_middle_costs_only_what_ran_there(trace: Path, tmp_path: Path) -> None:
    sweep = SweepFolder.made(tmp_path, trace, policies=("slowly:policy",), seeds=16)
    assert sweep.run("--store", "alone", "--out", "alone.sweep", "--jobs", "1")[0] == 0
    with two_nodes(slow_s=0.7) as cluster:
        process = sweep.start("--store", "there", "--out", "there.sweep", address=cluster.address)
        second = cluster.raylets[1]
        sweep.waits_until("there", lambda lines: _is_under_way(lines, children_of(second), runs=2))
        killed = cluster.kill_second()
        lost = _unfinished(sweep, killed)
        out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
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
