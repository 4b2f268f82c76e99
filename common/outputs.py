"""The outputs of commands: checked before anything is computed, and claimed while the command runs.

A claim is a file beside the output, `NAME.claim`, that names host, process and thread and is locked by them. The system
releases the lock of a killed process, so the next command on that output takes over the claim. On a file system without
locks, two commands are only kept apart by the way in which outputs appear: a new output never replaces another
(`common/files.py`).

One rule for all commands: an existing output is refused. With `overwrite` it is replaced once the new one is complete,
but only by one of its own kind, and never if the command reads it.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.figures import check_own_picture, check_picture
from common.files import Contents, check_replaced, host, make_folders, name_beside, refuse_existing
from common.interruptions import undone

META = "meta.json"  # in every folder that commands write
STORE_FILE = "store.json"  # in every result store
_TRIES = 100  # to take a claim whose owners keep changing
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


@dataclass(frozen=True, slots=True)
class Output:
    """A file or folder that a command is going to write."""

    path: Path
    contents: Contents | None = None
    """The files in it; None for an output that is itself a file."""
    reads: Callable[[Path], object] | None = None
    """Reads such a file, or raises a `UserError` for another; any file may be replaced without it."""

    def check(self, *, overwrite: bool) -> None:
        """Raise a `UserError` if nothing may be written there, or if something exists that must not be replaced."""
        if self.path.name in ("", ".."):
            raise UserError(f"{self.path} cannot be written: it is not a name for a file or folder")
        for folder in Path(os.path.realpath(self.path)).parents:
            if folder.suffix == ".trace" and (folder / META).exists():
                raise UserError(f"{self.path} cannot be written: {folder} is a trace")
        for name, what in ((META, "the output of another command"), (STORE_FILE, "a result store")):
            if (self.path.parent / name).exists():
                raise UserError(f"{self.path} cannot be written: {self.path.parent} is {what}")
        if not overwrite:
            refuse_existing(self.path)
        with suppress(OSError):  # a name that is too long is reported by the claim
            self._check_replaced()

    def _check_replaced(self) -> None:
        if self.contents is not None:
            check_replaced(self.path, self.contents)
            return
        if self.path.is_symlink():
            raise UserError(f"{self.path} cannot be replaced: it is a link to {self.path.readlink()}")
        if self.path.is_dir():
            raise UserError(f"{self.path} cannot be replaced: it is a folder")
        if self.path.exists() and not self.path.is_file():
            raise UserError(f"{self.path} cannot be replaced: it is not a regular file")
        if self.reads and self.path.exists():
            try:
                self.reads(self.path)
            except UserError as error:
                raise UserError(f"{self.path} cannot be replaced, because it is something else: {error}") from None


def folder(path: Path | None, contents: Contents) -> Output | None:
    """A folder, which may replace one with such contents."""
    return Output(path, contents) if path else None


def file(path: Path | None, *, reads: Callable[[Path], object] | None = None) -> Output | None:
    """A file; `reads` raises a `UserError` for an existing file that must not be replaced."""
    return Output(path, reads=reads) if path else None


def table(path: Path | None, *columns: str) -> Output | None:
    """A Parquet file, which may replace a table of this project with these columns."""

    def reads(path: Path) -> None:
        from common.parquet import check_table  # imports pyarrow

        check_table(path, columns)

    return file(path, reads=reads)


def picture(path: Path | None) -> Output | None:
    """A picture, which may replace one of this project; a `UserError` unless its name ends in a known format."""
    if path:
        check_picture(path)
    return file(path, reads=check_own_picture)


@contextmanager
def reserved(*outputs: Output | None, overwrite: bool, inputs: Sequence[Path | None] = ()) -> Iterator[None]:
    """Within the block, other commands cannot reserve these outputs; None stands for no output, or no input.

    A `UserError` before the block is entered if an output cannot be written, is reserved, is one of the `inputs`, or
    exists without `overwrite`. Claims, and folders that were created for them, are removed when the block ends.
    """
    wanted = [output for output in outputs if output]
    seen: set[str] = set()
    read = {os.path.realpath(path) for path in inputs if path}  # within a folder, they are no part of such an output
    for output in wanted:
        place = os.path.realpath(output.path)
        if place in read:
            raise UserError(f"{output.path} cannot be replaced: this command reads it")
        output.check(overwrite=overwrite)  # before the claim, since a folder without write permission would hide it
        if place in seen:
            raise UserError(f"{output.path} cannot be written: two outputs have this name")
        if any(is_within(place, other) for other in seen):
            raise UserError(f"{output.path} cannot be written: two outputs must not lie within each other")
        seen.add(place)
    with ExitStack() as claims:
        for output in wanted:
            claims.enter_context(_claimed(output.path))
        for output in wanted:
            output.check(overwrite=overwrite)  # another command may just have ended, or one lies within another
        yield


def is_within(one: str | Path, other: str | Path) -> bool:
    """Whether one of two places is the other, or a file or folder in it."""
    first, second = (Path(os.path.realpath(path)) for path in (one, other))
    return first.is_relative_to(second) or second.is_relative_to(first)


@contextmanager
def then_printed(text: Callable[[], str], *written: Path | None, quiet: bool = False) -> Iterator[None]:
    """Print the text after the block, which writes files; also after an error, so that the computation is not lost.

    Lines below it name the paths that the block wrote, unless `quiet` is set: for JSON, which programs read, or a brief
    text.
    """
    try:
        yield
    except Exception:
        with suppress(OSError):  # the error of the block is the one to report
            print(text(), flush=True)
        raise
    print(text())
    for path in written:
        if path and not quiet:
            print(f"wrote {path}")


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
    """A handle of the locked claim; `undo` removes the folders created for it if they are empty."""
    with suppress(FileNotFoundError):
        name_beside(path).lstat()  # raises if this name, longer than the path, is too long
    for tries_left in reversed(range(_TRIES)):
        make_folders(path.parent, undo)
        try:
            handle = os.open(claim, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # another command has removed the folder that it had created
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
        raise UserError(f"{path} cannot be written: {claim} is in the way, and no command wrote it")
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
