"""The result store: a folder of finished runs, each under its content hash.

    store.json             what this folder is, its schema version, an id
    runs/ab/KEY/           a result as `Result.write` puts it, without the names of its inputs
    bounds/ab/KEY.json     a lower bound of the makespan
    failures/ab/KEY.json   the error of a run that failed, until the run succeeds
    artefacts/             what runs share: decoded routing, learned state, predictions (`sim.artefacts`)
    journal/               when which process computed what (`sim.store.run_journal`)

A run is there whole or not at all, and equal keys give equal bytes, so processes and machines may share a folder
without locks: if two compute the same run, the second discards its copy. What was changed on disk is noticed, and
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

from common.errors import UserError, one_line
from common.files import remove, replacing, write_json
from common.hashing import is_sealed, sealed, sha256_of, sha256_of_json
from sim.artefacts import Artefacts
from sim.inputs import Inputs
from sim.results.result import TABLES, Result, read_meta, write_results
from sim.scenario import CacheSize, Scenario

SCHEMA_VERSION = 1
ABOUT = "store.json"
TRIES = 50  # to store a run that other processes store at the same moment
OF_OTHERS = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)  # errors that come of it


class StoreError(UserError):
    """The store cannot be used: work that relies on it has to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run in the store, as `sim store ls` shows it."""

    key: str
    path: Path
    meta: dict[str, Any] | None
    """Its scenario, figures and what its key was made of; None if it is broken."""
    bytes: int

    @property
    def figures(self) -> dict[str, Any]:
        """Its figures, and how detailed it is; to be asked if it is not broken."""
        assert self.meta is not None
        (run,) = self.meta["runs"]
        return {"detail": run["scenario"]["detail"], **run["summary"]}

    @property
    def code(self) -> dict[str, str]:
        """The code and libraries that made it; to be asked if it is not broken."""
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
        """The store in a folder, which is made if there is none.

        A `StoreError` of one line if the folder holds something else, is of another schema version, or cannot be
        written.
        """
        folder = Path(folder)
        about = folder / ABOUT
        if create and not about.exists():
            _make(folder)
        try:
            said = json.loads(about.read_text(encoding="utf-8"))
            version, identity = said["schema_version"], str(said["id"])
        except FileNotFoundError:
            raise StoreError(f"{about} is missing; {folder} is not a store of results") from None
        except OSError as error:
            raise StoreError(f"{about} cannot be read: {one_line(error)}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{about} does not describe a store of results; choose another folder") from error
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{about}: field schema_version: must be {SCHEMA_VERSION}, value {version}; choose another store"
            )
        return cls(folder, identity)

    def check_writable(self) -> None:
        """A `StoreError` unless something can be written now."""
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
        """The result of a scenario, in its detail and under its names; None if the store has none like that."""
        if not self.has(key, scenario):
            return None
        try:
            stored = Result.read(self._run(key))
        except (UserError, OSError):  # replaced since it was looked for
            return None
        named = {"machine": inputs.machine.name}
        result = replace(stored, provenance=inputs.provenance(scenario), summary=stored.summary | named)
        return result.trimmed(scenario)

    def has(self, key: str, scenario: Scenario) -> bool:
        """Whether an unbroken result is there, in the scenario's detail or a finer one, and checked if it is to be."""
        meta = self._sound(self._run(key))
        if meta is None:
            return False
        stored = meta["runs"][0]["scenario"]
        fine = TABLES.index(stored["detail"]) >= TABLES.index(scenario.detail)
        return fine and (stored["check"] or not scenario.check)

    def put(self, key: str, result: Result, facts: dict[str, Any]) -> None:
        """Keep a result, with what its key was made of; a `StoreError` if that cannot be written."""
        kept = _without_names(result, facts)
        for _ in range(TRIES):
            if self.has(key, kept.scenario):
                return
            try:
                write_results(self._run(key), [kept], overwrite=True)  # of what is broken, or in less detail
                remove(self._failure(key))
            except (UserError, OSError) as error:
                if _errno(error) not in OF_OTHERS:
                    raise StoreError(f"{self.folder}: a run could not be stored: {one_line(error)}") from error
        if not self.has(key, kept.scenario):
            raise StoreError(f"{self.folder}: a run could not be stored: other processes keep replacing it")

    def widened(self, key: str, scenario: Scenario) -> Scenario:
        """The scenario in at least the detail in which the store has it, and checked if it is so there.

        So a run that has to be computed again never takes the place of one that says more.
        """
        meta = self._sound(self._run(key))
        if meta is None:
            return scenario
        stored = meta["runs"][0]["scenario"]
        detail = max(scenario.detail, stored["detail"], key=TABLES.index)
        return replace(scenario, detail=detail, check=scenario.check or stored["check"])

    def summary(self, key: str) -> dict[str, Any] | None:
        """The figures of a run; None if it is not there or broken."""
        meta = self._sound(self._run(key))
        return None if meta is None else dict(meta["runs"][0]["summary"])

    def requests(self, key: str) -> pd.DataFrame | None:
        """The times of a run's requests, in the order in which they ran; None if it is not there or broken."""
        try:
            return Result.read(self._run(key)).requests if self.is_sound(key) else None
        except (UserError, OSError):  # replaced since it was looked for
            return None

    # ---- bounds and failures -------------------------------------------------------------------------------------

    def bound_s(self, key: str) -> float | None:
        """The least makespan in seconds; None if it is not there or broken."""
        said = _read_sealed(self._bound(key))
        return None if said is None else float(said["makespan_lower_bound_s"])

    def put_bound(self, key: str, least_s: float, facts: dict[str, Any]) -> None:
        """Keep the least makespan of a scenario, whatever its policy."""
        self._write(self._bound(key), {"makespan_lower_bound_s": least_s, "hashed": facts})

    def failure(self, key: str) -> str | None:
        """Why a run failed when it was tried last."""
        said = _read_sealed(self._failure(key))
        return None if said is None else str(said["error"])

    def put_failure(self, key: str, policy: str, error: str) -> None:
        """Keep the error of a run; it is tried again by the next sweep."""
        self._write(self._failure(key), {"policy": policy, "error": error})

    # ---- the folder ----------------------------------------------------------------------------------------------

    def runs(self) -> Iterator[StoredRun]:
        """All runs, by key."""
        for path in sorted((self.folder / "runs").glob("??/*")):
            if len(path.name) == 64:
                try:
                    files = list(path.iterdir()) if path.is_dir() else [path]
                    size = sum(file.stat().st_size for file in files if file.is_file())
                except FileNotFoundError:  # another process replaces it
                    continue
                yield StoredRun(key=path.name, path=path, meta=self._sound(path), bytes=size)

    def is_sound(self, key: str) -> bool:
        """Whether a run is there as it was written."""
        return self._sound(self._run(key)) is not None

    def count(self, part: Literal["bounds", "failures"]) -> int:
        """How many bounds or failures there are."""
        return len(list((self.folder / part).glob("??/*.json")))

    def _run(self, key: str) -> Path:
        return self.folder / "runs" / key[:2] / key

    def _bound(self, key: str) -> Path:
        return self.folder / "bounds" / key[:2] / f"{key}.json"

    def _failure(self, key: str) -> Path:
        return self.folder / "failures" / key[:2] / f"{key}.json"

    def _sound(self, folder: Path) -> dict[str, Any] | None:
        """What `meta.json` says of a run; None unless every file is as it was written."""
        try:
            meta = read_meta(folder)
            own = meta["runs"][0]["content_hash"] == folder.name  # and not copied from elsewhere
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
        """What runs of this code (`content_hash.code_facts`) share."""
        return Artefacts(self.folder / "artefacts", sources=sha256_of_json(dict(code)))


def _make(folder: Path) -> None:
    """A new store; if another process makes one just now, that one counts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if others and not (folder / ABOUT).exists():
            raise StoreError(f"{folder} is neither empty nor a store of results; choose another folder")
        said = {"what": "results of FineMoE Lab by content hash", "schema_version": SCHEMA_VERSION}
        made = folder / f".{uuid.uuid4().hex}"
        write_json(made, said | {"id": uuid.uuid4().hex})
        with suppress(FileExistsError):
            (folder / ABOUT).hardlink_to(made)
        made.unlink()
    except OSError as error:
        raise StoreError(f"{folder}: cannot make a store here: {error.strerror or error}") from error


def _without_names(result: Result, facts: dict[str, Any]) -> Result:
    """The result without what its inputs were called: whoever asks for it has names of his own."""
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
    """The number of the system's error, which a `UserError` may have as its cause."""
    return next((each.errno for each in (error, error.__cause__) if isinstance(each, OSError)), None)


def _read_sealed(path: Path) -> dict[str, Any] | None:
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return said if is_sealed(said) else None
    except (OSError, ValueError, AttributeError):
        return None
