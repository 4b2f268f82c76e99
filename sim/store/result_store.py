"""The result store: a folder of finished runs, each under its content hash.

    store.json             what this folder is, its schema version, an id
    runs/ab/KEY/           a result as from `Result.write`, without the names of its inputs
    bounds/ab/KEY.json     a lower bound of the makespan
    failures/ab/KEY.json   the error of a run that failed, until the run succeeds
    artefacts/             what runs share: decoded routing, learned state, predictions (`sim.artefacts`)
    journal/               which process computed which run, and when (`sim.store.run_journal`)

A run is stored whole or not at all, and equal keys give equal bytes, so processes and machines may share a folder
without locks: if two compute the same run, the second discards its copy. Changed files are detected, and their run is
computed again.
"""

import errno
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from common.errors import UserError, absent, reason
from common.files import remove, replacing, write_json
from common.hashing import is_sealed, sealed, sha256_of, sha256_of_json
from common.outputs import STORE_FILE
from sim.artefacts import Artefacts
from sim.inputs import Inputs
from sim.results.result import TABLES, Result, read_meta, write_results
from sim.scenario import CacheSize, Scenario

SCHEMA_VERSION = 1
TRIES = 50  # attempts to store a run that other processes store at the same moment
OF_OTHERS = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)  # errors caused by these processes


class StoreError(UserError):
    """The store cannot be used, so work that relies on it must stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run in the store, as `sim store ls` shows it."""

    key: str
    path: Path
    meta: dict[str, Any] | None
    """Its scenario, its figures and the facts behind its key; None if it is broken."""
    bytes: int

    @property
    def figures(self) -> dict[str, Any]:
        """The figures and the detail of a run that is not broken."""
        assert self.meta is not None
        (run,) = self.meta["runs"]
        return {"detail": run["scenario"]["detail"], **run["summary"]}

    @property
    def code(self) -> dict[str, str]:
        """The code and libraries that made a run that is not broken."""
        assert self.meta is not None
        code: dict[str, str] = self.meta["runs"][0]["provenance"]["hashed"]["code"]
        return code


class ResultStore:
    """A folder of results, opened with `ResultStore.open`."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self.identity = identity

    @classmethod
    def open(cls, folder: Path | str, *, create: bool = True) -> "ResultStore":
        """Open the store in a folder; by default, create it if missing.

        Raises a `StoreError` if the folder holds something else, has another schema version, or cannot be read or
        written.
        """
        folder = Path(folder)
        about = folder / STORE_FILE
        if create and not about.exists():
            _make(folder)
        try:
            description = json.loads(about.read_text(encoding="utf-8"))
            version, identity = description["schema_version"], str(description["id"])
        except FileNotFoundError:
            raise StoreError(absent(about, "a result store")) from None
        except OSError as error:
            raise StoreError(f"{about}: cannot be read: {reason(error)}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{about} does not describe a result store; choose another folder") from error
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{about}: field schema_version: must be {SCHEMA_VERSION}, not {version}; choose another store"
            )
        return cls(folder, identity)

    def check_writable(self) -> None:
        """Raise a `StoreError` unless the store can be written now."""
        probe = self.folder / "runs" / f"probe-{uuid.uuid4().hex}"
        try:
            probe.parent.mkdir(exist_ok=True)
            probe.write_bytes(b"x" * 4096)
        except OSError as error:
            raise StoreError(f"{self.folder}: the store cannot be written: {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)

    # ---- runs ----------------------------------------------------------------------------------------------------

    def find(self, key: str, scenario: Scenario, inputs: Inputs) -> Result | None:
        """The stored result of a scenario, with its detail and names; None if there is none."""
        if not self.has(key, scenario):
            return None
        try:
            stored = Result.read(self._run(key))
        except (UserError, OSError):  # replaced in the meantime
            return None
        named = {"machine": inputs.machine.name}
        result = replace(stored, provenance=inputs.provenance(scenario), summary=stored.summary | named)
        return result.trimmed(scenario)

    def has(self, key: str, scenario: Scenario) -> bool:
        """Whether an unbroken result is stored, with at least the scenario's detail, and checked if `check` is set."""
        meta = self._sound(self._run(key))
        if meta is None:
            return False
        stored = meta["runs"][0]["scenario"]
        fine = TABLES.index(stored["detail"]) >= TABLES.index(scenario.detail)
        return fine and (stored["check"] or not scenario.check)

    def put(self, key: str, result: Result, facts: dict[str, Any]) -> None:
        """Store a result with the facts behind its key. Raises a `StoreError` if it cannot be written."""
        kept = _without_names(result, facts)
        for _ in range(TRIES):
            if self.has(key, kept.scenario):
                return
            try:
                write_results(self._run(key), [kept], overwrite=True)  # a broken run, or one in less detail
                remove(self._failure(key))
            except (UserError, OSError) as error:
                if _errno(error) not in OF_OTHERS:
                    raise StoreError(f"{self.folder}: a run could not be stored: {reason(error)}") from error
        if not self.has(key, kept.scenario):
            raise StoreError(f"{self.folder}: a run could not be stored: other processes keep replacing it")

    def widened(self, key: str, scenario: Scenario) -> Scenario:
        """The scenario with at least the detail of the stored run, and with `check` if that run was checked.

        So a run that must be computed again never replaces one with more detail.
        """
        meta = self._sound(self._run(key))
        if meta is None:
            return scenario
        stored = meta["runs"][0]["scenario"]
        detail = max(scenario.detail, stored["detail"], key=TABLES.index)
        return replace(scenario, detail=detail, check=scenario.check or stored["check"])

    def summary(self, key: str) -> dict[str, Any] | None:
        """The figures of a run; None if it is missing or broken."""
        meta = self._sound(self._run(key))
        return None if meta is None else dict(meta["runs"][0]["summary"])

    def requests(self, key: str) -> pd.DataFrame | None:
        """The times of a run's requests, in the order in which they ran; None if it is missing or broken."""
        try:
            return Result.read(self._run(key)).requests if self.is_sound(key) else None
        except (UserError, OSError):  # replaced in the meantime
            return None

    # ---- bounds and failures -------------------------------------------------------------------------------------

    def bound_s(self, key: str) -> float | None:
        """The lower bound of the makespan in seconds; None if it is missing or broken."""
        stored = _read_sealed(self._bound(key))
        return None if stored is None else float(stored["makespan_lower_bound_s"])

    def put_bound(self, key: str, least_s: float, facts: dict[str, Any]) -> None:
        """Store the lower bound of a scenario's makespan, which applies to every policy."""
        self._write(self._bound(key), {"makespan_lower_bound_s": least_s, "hashed": facts})

    def failure(self, key: str) -> str | None:
        """The error of a run's last failed attempt; None if there is none."""
        stored = _read_sealed(self._failure(key))
        return None if stored is None else str(stored["error"])

    def put_failure(self, key: str, policy: str, error: str) -> None:
        """Store the error of a run; the next sweep tries it again."""
        self._write(self._failure(key), {"policy": policy, "error": error})

    # ---- the folder ----------------------------------------------------------------------------------------------

    def runs(self) -> Iterator[StoredRun]:
        """All runs, by key."""
        for path in sorted((self.folder / "runs").glob("??/*")):
            if len(path.name) == 64:
                try:
                    files = list(path.iterdir()) if path.is_dir() else [path]
                    size = sum(file.stat().st_size for file in files if file.is_file())
                except FileNotFoundError:  # another process is replacing it
                    continue
                yield StoredRun(key=path.name, path=path, meta=self._sound(path), bytes=size)

    def is_sound(self, key: str) -> bool:
        """Whether a run is stored, and unchanged since it was written."""
        return self._sound(self._run(key)) is not None

    def count(self, part: Literal["bounds", "failures"]) -> int:
        """The number of bounds or failures."""
        return len(list((self.folder / part).glob("??/*.json")))

    def _run(self, key: str) -> Path:
        return self.folder / "runs" / key[:2] / key

    def _bound(self, key: str) -> Path:
        return self.folder / "bounds" / key[:2] / f"{key}.json"

    def _failure(self, key: str) -> Path:
        return self.folder / "failures" / key[:2] / f"{key}.json"

    def _sound(self, folder: Path) -> dict[str, Any] | None:
        """The `meta.json` of a run; None unless every file is as it was written."""
        try:
            meta = read_meta(folder)
            own = meta["runs"][0]["content_hash"] == folder.name  # not copied from elsewhere
            sound = own and all(sha256_of(folder / name) == digest for name, digest in meta["files"].items())
        except (UserError, OSError, LookupError, TypeError):
            return None
        return meta if sound else None

    def _write(self, path: Path, data: dict[str, Any]) -> None:
        try:
            with replacing(path, "it") as partial:
                write_json(partial, sealed(data))
        except UserError as error:
            raise StoreError(f"{self.folder}: {error}") from error

    def artefacts(self, code: Mapping[str, str]) -> Artefacts:
        """The artefacts that runs of this code (`content_hash.code_facts`) share."""
        return Artefacts(self.folder / "artefacts", sources=sha256_of_json(dict(code)))


def _make(folder: Path) -> None:
    """Make a new store; if another process makes one at the same time, the first counts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if others and not (folder / STORE_FILE).exists():
            raise StoreError(f"{folder} is neither empty nor a result store; choose another folder")
        description = {"what": "results of FineMoE Lab by content hash", "schema_version": SCHEMA_VERSION}
        made = folder / f".{uuid.uuid4().hex}"
        write_json(made, description | {"id": uuid.uuid4().hex})
        with suppress(FileExistsError):
            (folder / STORE_FILE).hardlink_to(made)
        made.unlink()
    except OSError as error:
        raise StoreError(f"{folder}: cannot create a store here: {error.strerror or error}") from error


def _without_names(result: Result, facts: dict[str, Any]) -> Result:
    """The result without the names of its inputs, because each reader has its own names for them."""
    found = result.provenance
    scenario = replace(
        result.scenario,
        trace=Path(found["trace"]["digest"]),
        history=Path(found["history"]["digest"]) if found["history"] else None,
        counts=Path(found["counts_sha256"]) if found["counts_sha256"] else None,
        machine=found["machine"]["digest"],
        sizes=None,
        cache=CacheSize(experts=found["cache_experts"]),
        train_split=0.0,
        requests=None,
        label=None,
    )
    named = {"label": scenario.policy, "machine": scenario.machine}
    return replace(result, scenario=scenario, provenance={"hashed": facts}, summary=result.summary | named)


def _errno(error: BaseException) -> int | None:
    """The `errno` of an error or of its cause."""
    return next((each.errno for each in (error, error.__cause__) if isinstance(each, OSError)), None)


def _read_sealed(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content if is_sealed(content) else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
