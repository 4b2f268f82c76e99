"""Files and folders that appear whole or not at all, and the durable renames behind them."""

import errno
import json
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.interruptions import unwound


@dataclass(frozen=True, slots=True)
class Contents:
    """The files that a command writes into one folder, and how to recognise such a folder."""

    description: str
    """Name of the JSON file that describes the others."""
    key: str
    """Top-level key of that file; its presence identifies this kind of folder."""
    files: Collection[str]

    @property
    def names(self) -> Collection[str]:
        """The names of all files."""
        return (self.description, *self.files)

    def described_in(self, folder: Path) -> bool:
        """Whether the description in the folder has the key."""
        try:
            found = json.loads((folder / self.description).read_bytes())
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(found, dict) and self.key in found


@contextmanager
def replacing(path: Path, what: str) -> Iterator[Path]:
    """A name beside `path` to write `what` to; the file replaces `path` when the block ends without an error.

    Missing parent folders are created. A `UserError` if writing fails. An error or Ctrl-C leaves nothing behind.
    """
    with _written_beside(path, what) as partial:
        yield partial
        sync_file(partial)
        partial.replace(path)
        sync_folder(path.parent)


@contextmanager
def new_file(path: Path, what: str) -> Iterator[Path]:
    """Like `replacing`, but the file must not exist yet: a `UserError` if it does, before or after the block."""
    refuse_existing(path)
    with _written_beside(path, what) as partial:
        yield partial
        sync_file(partial)
        _link(partial, path)
        sync_folder(path.parent)


@contextmanager
def new_folder(path: Path, what: str, *, replaces: Contents | None = None) -> Iterator[Path]:
    """An empty folder beside `path` to write `what` to, which becomes `path` when the block ends without an error.

    A `UserError` if `path` already exists, unless it is empty or has only the contents in `replaces`; also if writing
    fails. An error or Ctrl-C leaves nothing behind.
    """
    if replaces is None:
        refuse_existing(path)
    else:
        check_replaced(path, replaces)
    with _written_beside(path, what) as partial:
        partial.mkdir()
        yield partial
        _sync_all(partial)
        if replaces is not None:
            check_replaced(path, replaces)  # somebody may have put something there meanwhile
            _exchange(partial, path)
        else:
            refuse_existing(path)  # another process may have created it meanwhile
            move(partial, path)


@contextmanager
def files_together(folder: Path, what: str) -> Iterator[Path]:
    """An empty folder to write files to, which all move into `folder` when the block ends without an error.

    They replace existing files. After an error or Ctrl-C, even while they move, all existing files are unchanged.
    """
    with _written_beside(folder / "files", what) as partial:
        partial.mkdir()
        try:
            yield partial
        except UserError as error:  # names the file where it was to be
            raise UserError(str(error).replace(str(partial), str(folder))) from error
        _sync_all(partial)
        files = sorted(each.relative_to(partial) for each in partial.rglob("*") if each.is_file())
        with ExitStack() as undo:
            for name in files:  # what needs room on the disk comes first
                make_folders((folder / name).parent, undo)
            _replace_all(files, partial, folder, undo)
            undo.pop_all()
        for parent in {(folder / name).parent for name in files}:
            sync_folder(parent)


def refuse_existing(path: Path) -> None:
    """Raise a `UserError` if `path` already exists; call it before computing anything for it."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # the writer reports the second, since it knows what it writes
        return
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    if stat.S_ISLNK(mode):
        raise UserError(f"{path} is a link, which is never replaced; choose another name")
    raise UserError(f"{path} exists already; choose another name, or replace it with `overwrite`")


def check_replaced(folder: Path, contents: Contents) -> None:
    """Raise a `UserError` unless the folder is absent, empty, or has only such contents, with their description."""
    if folder.is_symlink():
        raise UserError(f"{folder} cannot be replaced: it is a link to {folder.readlink()}")
    if not folder.is_dir():
        if folder.exists():
            raise UserError(f"{folder} cannot be replaced: it is a file")
        return
    found = sorted(folder.iterdir())
    for each in found:
        if each.is_dir() or each.name not in contents.names:
            raise UserError(f"{folder} cannot be replaced: it has {each.name}, which is no part of such an output")
    if found and not contents.described_in(folder):
        raise UserError(f"{folder} cannot be replaced: it has no {contents.description} of such an output")


def name_beside(path: Path) -> Path:
    """The temporary name under which this thread writes what becomes `path`.

    It contains process and thread, so two writers of one target do not collide, and leftovers of a killed writer can be
    distinguished from files of a running one. The suffix is the target's, since matplotlib chooses the format by it.
    """
    return path.parent / f"{path.stem}.{host()}-{os.getpid()}-{threading.get_native_id()}.partial{path.suffix}"


def host() -> str:
    """The name of this machine."""
    return os.uname().nodename.partition(".")[0]


def write_json(path: Path, data: object, *, sort: bool = True) -> None:
    """Write readable JSON, its keys sorted or in the order of the data; it is on the disk when the call returns."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        json.dump(data, file, sort_keys=sort, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
    sync_file(path)


def move(source: Path, target: Path) -> None:
    """Rename, durably; `target` must not exist."""
    source.rename(target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder for temporary files, which is removed with all that is in it when the block ends."""
    with unwound():
        try:
            scratch = tempfile.TemporaryDirectory(prefix="finemoe-", ignore_cleanup_errors=True)
        except OSError as error:
            raise UserError(f"{tempfile.gettempdir()}: no temporary folder: {error.strerror or error}") from error
        with scratch as folder:
            yield Path(folder)


def fresh_folder(path: Path) -> Path:
    """Make an empty folder, replacing whatever was there."""
    remove(path)
    path.mkdir(parents=True)
    return path


def remove(path: Path) -> None:
    """Delete a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_folders(folder: Path, undo: ExitStack) -> None:
    """Create the folder and missing parents; `undo` removes each of them again if it is empty."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        try:
            each.mkdir()
        except FileExistsError:  # another command has created it meanwhile
            continue
        undo.callback(_remove_if_empty, each)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: only then is a rename on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            sync_folder(path)
        elif path.is_file():
            sync_file(path)
    sync_folder(folder)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, which must not exist."""
    try:
        target.hardlink_to(source)
    except FileExistsError:
        refuse_existing(target)  # another process has created it meanwhile
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        refuse_existing(target)  # a file system without hard links cannot do both in one step
        source.rename(target)


def _replace_all(names: Sequence[Path], new: Path, folder: Path, undo: ExitStack) -> None:
    """Move these files from the folder `new`; `undo` puts back what they replace."""
    old = Path(tempfile.mkdtemp(dir=new))  # deleted together with `new`
    for name in names:
        if (folder / name).exists():
            (old / name).parent.mkdir(parents=True, exist_ok=True)
            _copy_or_link(folder / name, old / name)
    for name in names:
        undo.callback(_put_back, old / name, new / name, folder / name)
        (new / name).replace(folder / name)


def _copy_or_link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _put_back(old: Path, new: Path, path: Path) -> None:
    if old.exists():
        old.replace(path)
    elif not new.exists():
        path.unlink(missing_ok=True)


def _exchange(new: Path, path: Path) -> None:
    """Put a folder where another one may be; if the process is killed in between, the old one is left beside `path`."""
    old = new.with_name(f"{new.name}.replaced")
    try:
        if path.exists():
            move(path, old)
        move(new, path)
    finally:
        if path.exists():
            remove(old)
        elif old.exists():
            old.rename(path)


@contextmanager
def _written_beside(path: Path, what: str) -> Iterator[Path]:
    """`name_beside(path)`, which is deleted at the end if it still exists."""
    partial = name_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        with unwound():
            yield partial
    except OSError as error:
        raise UserError(f"{path}: {what} could not be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            remove(partial)


def _remove_leftovers(path: Path) -> None:
    """Delete what killed writers of `path` on this machine have left, and earlier leftovers of this writer."""
    own = name_beside(path)
    for beside in path.parent.iterdir():
        if beside == own or (beside.name.startswith(f"{path.stem}.") and is_abandoned(beside)):
            with suppress(OSError):  # another writer may delete it too
                remove(beside)


def is_abandoned(path: Path) -> bool:
    """Whether a file or folder was being written by a process of this machine that no longer runs."""
    found = re.fullmatch(rf".+\.{re.escape(host())}-(\d{{1,9}})-\d{{1,9}}\.partial(\..+)?", path.name)
    return found is not None and not is_alive(int(found[1]))


def is_alive(process: int) -> bool:
    """Whether this process runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, under another user
        pass
    return True
