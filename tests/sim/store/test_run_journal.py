"""The journal: what runs took, and which run now."""

import os
from pathlib import Path

import pytest

from common.files import host
from sim.store.result_store import ResultStore
from sim.store.run_journal import RunJournal


@pytest.fixture
def journal(tmp_path: Path) -> RunJournal:
    return RunJournal(ResultStore.open(tmp_path / "store"))


def journal_file(tmp_path: Path, process: str) -> Path:
    return tmp_path / "store" / "journal" / f"{process}.jsonl"


def test_a_run_runs_from_its_start_to_its_end(journal: RunJournal) -> None:
    journal.note("started", "a", "lru")
    journal.note("started", "b", "lfu")
    journal.note("finished", "a", "lru", wall_s=2.0, cpu_s=1.5)
    assert list(journal.running()) == ["b"]
    journal.note("failed", "b", "lfu", wall_s=1.0)
    assert journal.running() == {}
    assert [(line.event, line.key) for line in journal.lines()] == [
        ("started", "a"),
        ("started", "b"),
        ("finished", "a"),
        ("failed", "b"),
    ]


def test_what_a_dead_process_began_does_not_run(journal: RunJournal, tmp_path: Path) -> None:
    journal.note("started", "a", "lru")
    mine = journal_file(tmp_path, f"{host()}-{os.getpid()}")
    mine.rename(journal_file(tmp_path, f"{host()}-4194304"))  # above the largest process number
    assert journal.running() == {}


def test_processes_of_other_machines_are_assumed_alive(journal: RunJournal, tmp_path: Path) -> None:
    journal.note("started", "a", "lru")
    journal_file(tmp_path, f"{host()}-{os.getpid()}").rename(journal_file(tmp_path, "elsewhere-4194304"))
    assert [line.process for line in journal.running().values()] == ["elsewhere-4194304"]


def test_a_line_that_was_cut_off_is_left_out(journal: RunJournal, tmp_path: Path) -> None:
    journal.note("started", "a", "lru")
    with journal_file(tmp_path, f"{host()}-{os.getpid()}").open("a") as file:
        file.write('{"event": "finished", "key": "a", "pol')
    assert [line.event for line in journal.lines()] == ["started"]


def test_means_are_of_finished_runs_per_policy(journal: RunJournal) -> None:
    for wall_s in (1.0, 3.0):
        journal.note("finished", "a", "lru", wall_s=wall_s)
    journal.note("failed", "b", "lru", wall_s=100.0)
    journal.note("finished", "c", "lfu", wall_s=5.0)
    assert journal.mean_seconds() == {"lru": 2.0, "lfu": 5.0}
