"""The journal of a store: which process began and finished which run, when, and how long it took.

Every process appends to its own file, `journal/HOST-PID.jsonl`, so processes never wait for each other. Times are kept
here and not in the results, whose bytes would differ otherwise.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from common.errors import reason
from common.files import host, is_alive
from sim.store.result_store import ResultStore, StoreError

Event = Literal["started", "finished", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLine:
    """An event in the life of a run."""

    event: Event
    key: str
    policy: str
    at_s: float  # since 1970
    wall_s: float = 0.0
    cpu_s: float = 0.0
    process: str = ""
    """`HOST-PID` of the process that wrote it."""


class RunJournal:
    """The journal of a store."""

    def __init__(self, store: ResultStore) -> None:
        self._folder = store.folder / "journal"

    def note(self, event: Event, key: str, policy: str, *, wall_s: float = 0.0, cpu_s: float = 0.0) -> None:
        """Append a line; the operating system has it when the call returns."""
        line = JournalLine(event=event, key=key, policy=policy, at_s=time.time(), wall_s=wall_s, cpu_s=cpu_s)
        entry = {name: value for name, value in asdict(line).items() if name != "process"}
        try:
            self._folder.mkdir(exist_ok=True)
            with (self._folder / f"{host()}-{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise StoreError(f"{self._folder.parent}: the store cannot be written: {reason(error)}") from error

    def lines(self) -> Iterator[JournalLine]:
        """All lines, in order of time; incomplete lines of killed processes are left out."""
        found = [line for path in self._folder.glob("*.jsonl") for line in _read(path)]
        yield from sorted(found, key=lambda line: (line.at_s, line.process))

    def running(self) -> dict[str, JournalLine]:
        """The runs that have begun and not ended, by key; without those of dead processes of this machine."""
        open_lines: dict[tuple[str, str], JournalLine] = {}
        for line in self.lines():
            if line.event == "started":
                open_lines[line.process, line.key] = line
            else:
                open_lines.pop((line.process, line.key), None)
        return {line.key: line for line in open_lines.values() if _may_live(line.process)}

    def mean_seconds(self) -> dict[str, float]:
        """The mean wall time of each policy's finished runs."""
        seconds: dict[str, list[float]] = {}
        for line in self.lines():
            if line.event == "finished":
                seconds.setdefault(line.policy, []).append(line.wall_s)
        return {policy: sum(each) / len(each) for policy, each in seconds.items()}


def _read(path: Path) -> Iterator[JournalLine]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for row in text.splitlines():
        try:
            yield JournalLine(**json.loads(row), process=path.stem)
        except (ValueError, TypeError, RecursionError):
            continue


def _may_live(process: str) -> bool:
    name, _, number = process.rpartition("-")
    return name != host() or is_alive(int(number))
