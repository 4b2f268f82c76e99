"""A cache of data derived from traces: decoded routing, its naturalness, what policies learn and predict, and analyses
for figures.

An artefact is a set of named arrays. Its key covers everything that it was made from, so equal keys mean equal arrays,
and writers need no locks: if two write the same artefact, the slower one discards its copy. Files on disk are trusted
only if their sizes and hashes match the sealed description; a broken artefact is made anew.

    FOLDER/KIND/ab/abcd….artefact/    ab are the first two digits of the key
        meta.json                     schema version, kind, key; name, size and SHA-256 of each array's file
        0.npy, 1.npy, …               the arrays, by their names in alphabetical order
"""

import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.files import new_folder, remove, write_json
from common.hashing import is_sealed, sealed, sha256_of, sha256_of_json

Kind = Literal["routing", "naturalness", "learned", "predictions", "figures"]
Arrays = Mapping[str, NDArray[Any]]

SCHEMA = 1
FORMAT = (1, 0)  # version of the .npy files
META = "meta.json"
SUFFIX = ".artefact"

# Remembered by this process, so that it hashes each file once and reports each folder once.
_VERIFIED: set[tuple[int, int, int, str]] = set()
_REFUSED: set[Path] = set()


@dataclass(frozen=True, slots=True)
class StoredArtefact:
    """An artefact on the disk."""

    kind: Kind
    key: str
    bytes: int
    used_s: float  # when it was last used (or made), in seconds since 1970


class Artefacts:
    """The artefacts in a folder; without a folder, nothing is kept.

    `sources` is the hash of the code that makes artefacts. It is part of every key, so edited code never finds
    artefacts of older code. Several processes and machines may use one folder at the same time.
    """

    def __init__(self, folder: Path | None, sources: str) -> None:
        self.folder = folder
        self.sources = sources

    @property
    def kept(self) -> bool:
        """Whether new artefacts are kept; False without a folder, or after writing to it has failed."""
        return self.folder is not None and self.folder not in _REFUSED

    def key(self, kind: Kind, facts: Mapping[str, Any]) -> str:
        """The key of an artefact made from `facts`: plain data with everything that can change it."""
        return sha256_of_json({"schema": SCHEMA, "kind": kind, "sources": self.sources, "facts": dict(facts)})

    def made(self, kind: Kind, key: str, make: Callable[[], Arrays]) -> Arrays:
        """The artefact, made if missing; read-only, and memory-mapped if it could be kept."""
        found = self.get(kind, key)
        if found is not None:
            return found
        arrays = make()
        self.put(kind, key, arrays)
        found = self.get(kind, key)  # processes share the pages of a mapped file, but not arrays in memory
        return {name: _read_only(array) for name, array in arrays.items()} if found is None else found

    def get(self, kind: Kind, key: str) -> Arrays | None:
        """The artefact as read-only memory maps; None if it is missing or broken."""
        if self.folder is None:
            return None
        path = self.path(kind, key)
        found = _opened(path, kind, key)
        if found is not None:
            with suppress(OSError):
                os.utime(path / META)  # the last use, for `finemoe sim store gc --unused-days`
        return found

    def put(self, kind: Kind, key: str, arrays: Arrays) -> None:
        """Keep the artefact, whole or not at all; a broken one is replaced.

        If writing fails, one line on stderr reports it, and this process keeps nothing more in the folder.
        """
        if self.folder is None or not self.kept:
            return
        path = self.path(kind, key)
        if _opened(path, kind, key) is not None:
            return
        with suppress(OSError):
            remove(path)  # broken
        try:
            with new_folder(path, f"the {kind} artefact") as partial:
                _write(partial, kind, key, arrays)
        except UserError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                _REFUSED.add(self.folder)
                print(f"{error}; the run continues, but stores nothing more there", file=sys.stderr)
            # Otherwise another process was faster.

    def __iter__(self) -> Iterator[StoredArtefact]:
        """All artefacts, whole or broken, by kind and key."""
        for kind in get_args(Kind):
            places = [] if self.folder is None else sorted((self.folder / kind).glob("??/*"))
            for path in places:
                if not re.fullmatch(rf"[0-9a-f]{{64}}{re.escape(SUFFIX)}", path.name):
                    continue  # still being written
                with suppress(OSError):  # another process may remove it
                    size = sum(file.stat().st_size for file in path.iterdir())
                    mark = path / META if (path / META).exists() else path
                    yield StoredArtefact(kind, path.name.removesuffix(SUFFIX), size, mark.stat().st_mtime)

    def path(self, kind: Kind, key: str) -> Path:
        """The folder of an artefact."""
        assert self.folder is not None
        return self.folder / kind / key[:2] / f"{key}{SUFFIX}"


def _write(folder: Path, kind: Kind, key: str, arrays: Arrays) -> None:
    files: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(sorted(arrays)):
        path = folder / f"{number}.npy"
        with path.open("wb") as file:
            np.lib.format.write_array(file, arrays[name], FORMAT, allow_pickle=False)
        files[name] = {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
    meta = {"schema": SCHEMA, "kind": kind, "key": key, "arrays": files}
    write_json(folder / META, sealed(meta))


def _opened(path: Path, kind: Kind, key: str) -> Arrays | None:
    """The arrays of an artefact; None if it is missing or differs from what was written."""
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        if not is_sealed(meta) or (meta["schema"], meta["kind"], meta["key"]) != (SCHEMA, kind, key):
            return None
        arrays = {}
        for name, described in meta["arrays"].items():
            with (path / described["file"]).open("rb") as file:
                if not _is_whole(file, described["bytes"], described["sha256"]):
                    return None
                arrays[name] = _mapped(file)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # from broken files
        return None
    return arrays


def _is_whole(file: BufferedReader, size: int, sha256: str) -> bool:
    """Whether the file is as it was written; it is hashed on first use, and again if it was modified since."""
    found = os.fstat(file.fileno())
    mark = (found.st_dev, found.st_ino, found.st_mtime_ns, sha256)
    if found.st_size != size:
        return False
    if mark not in _VERIFIED:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            return False
        _VERIFIED.add(mark)
    return True


def _mapped(file: BufferedReader) -> NDArray[Any]:
    """The array of an open file. (Opening it again by name might give another file.)"""
    file.seek(0)
    if np.lib.format.read_magic(file) != FORMAT:
        raise ValueError("another version of the format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    return np.asarray(np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C"))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


NOTHING_KEPT = Artefacts(None, sources="")
