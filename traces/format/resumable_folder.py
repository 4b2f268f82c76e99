"""The folder in which a trace is built, safe against a crash at any moment.

A writer of `NAME.trace` works in `NAME.trace.partial/`:

    plan.json   settings and inputs of the trace; parts are kept only for the same plan
    lock        locked by the process that writes
    parts/      one folder per finished part, renamed into place once it is on disk
    finished/   the merged trace while it is written
    replaced/   the previous trace, until the new one is in place
    merged      marker: `finished/` is complete. If `finished/` is gone, it has become the trace
"""

import fcntl
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from common.errors import UserError
from common.files import check_replaced, fresh_folder, move, refuse_existing, remove, sync_folder, write_json
from traces.format.storage import read_json
from traces.format.trace_files import TRACE_FILES


class PartialFolder:
    """`NAME.trace.partial/`, locked by this process from `begin` to `close` or `install`.

    A crash at any moment leaves either all finished parts or the finished trace.
    """

    def __init__(self, target: Path, *, overwrite: bool = False) -> None:
        self.target = target
        self.overwrite = overwrite
        self.path = target.with_name(target.name + ".partial")
        self._lock: TextIO | None = None

    def begin(self, plan: Mapping[str, Any], *, restart: bool = False) -> None:
        """Resume this plan, or start it; raises `UserError` for another plan or an existing target."""
        self.settle()
        self.path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        if restart or not self._has_parts():
            self._discard(keep_lock=True)
            write_json(self.path / "plan.tmp", plan)
            move(self.path / "plan.tmp", self.path / "plan.json")
        else:
            self._compare(plan)
        self._parts.mkdir(exist_ok=True)
        for leftover in self._parts.glob("*.tmp"):
            remove(leftover)

    def settle(self) -> None:
        """Complete an interrupted `install`; raises `UserError` if the target exists and may not be overwritten."""
        if self.path.exists():
            self._take_lock()
            self._recover()
        self._check_target()

    def close(self, *, keep: bool = True) -> None:
        """Unlock the folder for other processes. Without `keep`, or without a finished part, nothing stays."""
        if self._lock is None:
            return
        with suppress(OSError):
            if not (keep and self._has_parts()):
                self._discard()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def _parts(self) -> Path:
        return self.path / "parts"

    def _has_parts(self) -> bool:
        """Whether anything was finished that a resumed run would keep."""
        parts = self._parts.iterdir() if (self.path / "plan.json").exists() and self._parts.exists() else ()
        return any(part.suffix != ".tmp" for part in parts)

    def part(self, number: int) -> Path:
        """The folder of a part."""
        return self._parts / f"{number:06d}"

    def finished(self) -> dict[int, Path]:
        """The finished parts by number, in order."""
        return {int(folder.name): folder for folder in sorted(self._parts.iterdir())}

    def begin_merge(self) -> Path:
        """An empty folder for the merged trace."""
        remove(self.path / "merged")
        sync_folder(self.path)
        return fresh_folder(self.path / "finished")

    def install(self) -> None:
        """Move the merged folder, all of it on disk, to the target, and remove everything else."""
        sync_folder(self.path / "finished")
        (self.path / "merged").touch()
        sync_folder(self.path)
        self._check_target()
        if self.target.exists():
            move(self.target, self.path / "replaced")
        move(self.path / "finished", self.target)
        self._discard()

    def _recover(self) -> None:
        """Complete or undo an interrupted `install`; without a plan there is nothing to keep."""
        installed = (self.path / "merged").exists() and not (self.path / "finished").exists()
        if installed or not (self.path / "plan.json").exists():
            self._discard()
        elif (self.path / "replaced").exists() and not self.target.exists():
            move(self.path / "replaced", self.target)

    def _discard(self, *, keep_lock: bool = False) -> None:
        """Remove everything, and the folder itself unless the lock is kept."""
        # Remove the marker last, so that after a crash in between `_recover` discards the rest.
        names = {child.name for child in self.path.iterdir()} - {"merged", "lock"}
        for name in [*sorted(names), "merged"]:
            remove(self.path / name)
        if not keep_lock:
            remove(self.path / "lock")
            self.path.rmdir()
            sync_folder(self.path.parent)
            self._unlock()

    def _check_target(self) -> None:
        if not self.target.exists():
            return
        try:
            if self.overwrite:
                check_replaced(self.target, TRACE_FILES)
            else:
                refuse_existing(self.target)
        except UserError:
            self.close()
            raise

    def _compare(self, plan: Mapping[str, Any]) -> None:
        found = read_json(self.path / "plan.json")
        if found == plan:
            return
        self.close()
        was, now = dict(_leaves(found)), dict(_leaves(plan))
        differing = [key for key in was | now if was.get(key) != now.get(key)]
        differing.sort(key=lambda key: (key.count("."), key))  # options first, then what follows from them
        changes = [_change(key, was.get(key), now.get(key)) for key in differing[:3]]
        more = [f"{len(differing) - 3} more"] * (len(differing) > 3)
        what = f"{'; '.join(changes + more)}; `restart` discards its work"
        raise UserError(f"{self.path} was started with other settings: {what}")

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        lock = (self.path / "lock").open("a")
        try:
            # The lock belongs to the process, not to the handle; the system releases it when the process dies.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise UserError(f"{self.path}: another process is writing this trace") from None
        self._lock = lock


def _change(key: str, was: Any, now: Any) -> str:
    """How a setting of a plan differs, with its values unless they are hashes of long settings."""
    if any(re.fullmatch("[0-9a-f]{64}", str(value)) for value in (was, now)):
        return f"{key} differs"
    return f"{key} was {was!r} and is {now!r}"


def _leaves(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values of nested data with their dotted names."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1], data
