"""What a command writes: refused before anything is computed if it cannot be written, and claimed while it computes.

A claim is a file beside the output, `NAME.claim`, that names host, process and thread and is locked by them. The system
releases the lock of a killed process, so the next command on that output takes the claim over. Where a file system has
no locks, only the way in which outputs appear keeps two commands apart: a new one never replaces another
(`common/files.py`).
"""

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.figures import check_picture
from common.files import host, name_beside, refuse_existing
from common.interruptions import undone

_TRIES = 100  # until a claim is taken whose owners come and go
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


@dataclass(frozen=True, slots=True)
class Output:
    """A file or folder that a command is going to write."""

    path: Path
    overwrite: bool | None = None
    """Whether one that is there is replaced; None where that is no choice, and it is refused."""
    is_file: bool = False
    """It can take the place of a file, but of no folder."""

    def check(self) -> None:
        """A `UserError` if something is there that is not to be replaced."""
        refuse_existing(self.path, overwrite=self.overwrite)
        if self.is_file:
            with suppress(OSError):  # a name that is too long, of which the claim says so
                if self.path.is_dir():
                    raise UserError(f"{self.path} cannot be written: it is a folder")


def new(path: Path | None, *, overwrite: bool | None = None) -> Output | None:
    """An output that must not be there yet, unless it is to be overwritten."""
    return Output(path, overwrite) if path else None


def replaced(path: Path | None) -> Output | None:
    """A file that takes the place of one that is there."""
    return Output(path, overwrite=True, is_file=True) if path else None


def picture(path: Path | None) -> Output | None:
    """A picture, in place of one that is there; a `UserError` unless its name ends in a format that can be drawn."""
    if path:
        check_picture(path)
    return replaced(path)


@contextmanager
def reserved(*outputs: Output | None) -> Iterator[None]:
    """Within the block, other commands that reserve one of these outputs are refused; None stands for no output.

    A `UserError` before the block is entered if an output is there already, cannot be written, or is reserved. Claims,
    and folders that were made for them, are gone when the block ends.
    """
    wanted = [output for output in outputs if output]
    seen: set[str] = set()
    for output in wanted:
        output.check()  # before a folder that may not be written can hide it
        place = os.path.realpath(output.path)
        if place in seen:
            raise UserError(f"{output.path} cannot be written: it is the name of two outputs")
        seen.add(place)
    with ExitStack() as claims:
        for output in wanted:
            claims.enter_context(_claimed(output.path))
        for output in wanted:
            output.check()  # another command may just have ended, or an output lie within another
        yield


@contextmanager
def then_printed(text: Callable[[], str]) -> Iterator[None]:
    """Print the text when the block, which writes, has ended: also after an error, since computing took longer."""
    try:
        yield
    except Exception:
        with suppress(OSError):  # the error of the block is the one to report
            print(text(), flush=True)
        raise
    print(text())


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    claim = path.with_name(f"{path.name}.claim")
    folders = ExitStack()
    with undone(folders.close):
        try:
            handle = _locked(path, claim, folders)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
        try:
            with undone(claim.unlink):  # while it is locked, so that nobody else's is removed
                yield
        finally:
            os.close(handle)


def _locked(path: Path, claim: Path, undo: ExitStack) -> int:
    """A handle of the claim, locked; `undo` removes the folders that were made for it, where they are empty."""
    with suppress(FileNotFoundError):
        name_beside(path).lstat()  # longer than the path, perhaps too long
    for tries_left in reversed(range(_TRIES)):
        _make_folders(path.parent, undo)
        try:
            handle = os.open(claim, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # another command has removed the folder that it had made
            if tries_left:
                continue
            raise
        try:
            if _taken(handle, path, claim):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise UserError(f"{path} cannot be written: other commands keep writing there")


def _taken(handle: int, path: Path, claim: Path) -> bool:
    """Lock the claim and sign it; False if its owner has removed it meanwhile."""
    owner = os.pread(handle, 200, 0).decode(errors="replace").strip()
    if owner and not owner.startswith("process "):
        raise UserError(f"{path} cannot be written: {claim} is in the way, which no command has put there")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{path} cannot be written: {owner or 'another process'} is writing there") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        if not os.path.samestat(os.fstat(handle), claim.stat()):
            return False
    except FileNotFoundError:
        return False
    os.ftruncate(handle, 0)
    try:
        os.pwrite(handle, f"process {os.getpid()}, thread {threading.get_native_id()} on {host()}\n".encode(), 0)
    except BaseException:
        claim.unlink()
        raise
    return True


def _make_folders(folder: Path, undo: ExitStack) -> None:
    """Make the folder and those above it, each to be removed again by `undo` if it is empty."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        try:
            each.mkdir()
        except FileExistsError:  # another command was faster
            continue
        undo.callback(_remove_if_empty, each)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
