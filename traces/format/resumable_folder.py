"""The folder in which a trace grows, and the moves that no crash can spoil.

Beside `NAME.trace` grows `NAME.trace.partial/`:

    plan.json   what is being made: of which the parts are pieces
    lock        held by the process that writes
    parts/      a folder per finished part, renamed into place when all of it is on the disk
    finished/   the merged trace, while it is being made
    replaced/   the trace that stood at the target, until the new one is there
    merged      `finished/` is complete; when that folder is gone, it has become the trace
"""

import fcntl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from common.errors import UserError
from common.files import fresh_folder, move, remove, sync_folder, write_json
from traces.format.storage import read_json


class PartialFolder:
    """`NAME.trace.partial/`, held by this process from `begin` to `close` or `install`.

    A crash at any moment leaves either all finished parts or the finished trace.
    """

    def __init__(self, target: Path, *, overwrite: bool = False) -> None:
        self.target = target
        self.overwrite = overwrite
        self.path = target.with_name(target.name + ".partial")
        self._lock: TextIO | None = None

    def begin(self, plan: Mapping[str, Any], *, restart: bool = False) -> None:
        """Take up what is there of this plan, or begin anew; another plan or a finished target is a `UserError`."""
        self.settle()
        self.path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        if restart or not (self.path / "plan.json").exists():
            self._discard(keep_lock=True)
            write_json(self.path / "plan.tmp", plan)
            move(self.path / "plan.tmp", self.path / "plan.json")
        else:
            self._compare(plan)
        self._parts.mkdir(exist_ok=True)
        for leftover in self._parts.glob("*.tmp"):
            remove(leftover)

    def settle(self) -> None:
        """Bring a killed `install` to its end; a target that stands and may not be overwritten is a `UserError`."""
        if self.path.exists():
            self._take_lock()
            self._recover()
        self._check_target()

    def close(self) -> None:
        """Let other processes write; what is on the disk stays."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def _parts(self) -> Path:
        return self.path / "parts"

    def part(self, number: int) -> Path:
        """The folder of a part."""
        return self._parts / f"{number:06d}"

    def finished(self) -> dict[int, Path]:
        """The parts that are there, in order."""
        return {int(folder.name): folder for folder in sorted(self._parts.iterdir())}

    def begin_merge(self) -> Path:
        """An empty folder for the trace to be."""
        remove(self.path / "merged")
        sync_folder(self.path)
        return fresh_folder(self.path / "finished")

    def install(self) -> None:
        """Make the merged folder, all on the disk, the trace, and remove everything else."""
        sync_folder(self.path / "finished")
        (self.path / "merged").touch()
        sync_folder(self.path)
        self._check_target()
        if self.target.exists():
            move(self.target, self.path / "replaced")
        move(self.path / "finished", self.target)
        self._discard()

    def _recover(self) -> None:
        """Bring an interrupted `install` to one of its two ends; without a plan nothing had begun, or all was over."""
        installed = (self.path / "merged").exists() and not (self.path / "finished").exists()
        if installed or not (self.path / "plan.json").exists():
            self._discard()
        elif (self.path / "replaced").exists() and not self.target.exists():
            move(self.path / "replaced", self.target)

    def _discard(self, *, keep_lock: bool = False) -> None:
        """Remove everything, and the folder itself unless the lock is kept."""
        # The mark goes last, so that a crash in between is seen to have been a removal.
        names = {child.name for child in self.path.iterdir()} - {"merged", "lock"}
        for name in [*sorted(names), "merged"]:
            remove(self.path / name)
        if not keep_lock:
            remove(self.path / "lock")
            self.path.rmdir()
            sync_folder(self.path.parent)
            self.close()

    def _check_target(self) -> None:
        if self.target.exists() and not self.overwrite:
            self.close()
            raise UserError(f"{self.target} exists already; overwrite to replace it")

    def _compare(self, plan: Mapping[str, Any]) -> None:
        found = read_json(self.path / "plan.json")
        if found == plan:
            return
        self.close()
        was, now = dict(_leaves(found)), dict(_leaves(plan))
        differing = [key for key in sorted(was | now) if was.get(key) != now.get(key)]
        told = [f"{key} was {was.get(key)!r} and is {now.get(key)!r}" for key in differing[:3]]
        more = [f"{len(differing) - 3} more"] * (len(differing) > 3)
        raise UserError(f"{self.path} was begun with other settings: {'; '.join(told + more)}; restart to begin anew")

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        lock = (self.path / "lock").open("a")
        try:
            # Of the process, not of the handle; the system releases it when the process dies.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise UserError(f"{self.path}: another process is writing this trace") from None
        self._lock = lock


def _leaves(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values with their dotted names."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1], data
