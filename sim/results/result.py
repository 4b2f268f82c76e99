"""Results of simulated or measured runs, with everything that they depend on, and folders of results.

A folder has one or several results, distinguished by the column `policy`:

    meta.json            schema version; each run's scenario, inputs and figures; hashes
    summary.parquet      a row per run: its figures
    requests.parquet     a row per request
    iterations.parquet   a row per iteration, unless the detail is `requests`
    events.parquet       a row per call on the expert cache, the decision log, if the detail is `events`
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from typing_extensions import override

from common.errors import FieldError, UserError, absent, reason
from common.files import Contents, new_folder, write_json
from common.hashing import is_sealed, sealed, sha256_of
from common.parquet import read_frame, write_frame
from common.settings import from_data, to_data
from common.tables import number
from sim.inputs import Inputs
from sim.results.event_table import event_frame, event_schema, with_tuples
from sim.results.summary import Summary, summarise
from sim.scenario import Detail, Scenario
from sim.started_policy import Outcome

SCHEMA_VERSION = 4
TABLES = get_args(Detail)  # from the coarsest to the finest
RESULT_FILES = Contents("meta.json", "runs", ("summary.parquet", *(f"{table}.parquet" for table in TABLES)))
"""The files in a folder of results; only such a folder is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Result:
    """The result of one run. Equal results have equal fields, to the last bit."""

    scenario: Scenario
    provenance: Mapping[str, Any]
    """The inputs that the scenario names: trace, history, model sizes, machine and slots, with their digests."""
    content_hash: str | None
    """The key of the run (`sim.content_hash`), if it has one; None if times were measured."""
    summary: Summary
    """The figures of the run, with units in the keys."""
    requests: pd.DataFrame
    """A row per request."""
    iterations: pd.DataFrame | None
    """A row per iteration."""
    events: pd.DataFrame | None
    """The decision log, a row per call on the expert cache."""

    @classmethod
    def of(cls, scenario: Scenario, inputs: Inputs, run: Outcome, *, content_hash: str | None = None) -> "Result":
        """The result of a run, in the scenario's detail."""
        return cls(
            scenario=scenario,
            provenance=inputs.provenance(scenario),
            content_hash=content_hash,
            summary=summarise(run, scenario, inputs),
            requests=run.requests,
            iterations=None if scenario.detail == "requests" else run.iterations,
            events=event_frame(run.log.in_time()) if run.log else None,
        )

    def trimmed(self, scenario: Scenario) -> "Result":
        """The result for a scenario with less detail or another label."""
        summary = self.summary | {"label": scenario.name}
        left_out: dict[str, Any] = dict.fromkeys(_finer_than(scenario.detail))
        return replace(self, scenario=scenario, summary=summary, **left_out)

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        alike = _meta_of(self) == _meta_of(other)
        pairs = [(getattr(self, name), getattr(other, name)) for name in TABLES]
        return alike and all(
            one is other if one is None or other is None else one.equals(other) for one, other in pairs
        )

    @override
    def __repr__(self) -> str:
        kind = "simulated" if self.summary["simulated"] else "measured"
        tpot_ms = number(self.summary["tpot_s_mean"], ".2f", 1e3)
        return f"<Result: {self.scenario.name} on {self.summary['machine']}, {kind}, TPOT {tpot_ms} ms>"

    __hash__ = None  # type: ignore[assignment]  # frames have none

    def write(self, folder: Path | str) -> None:
        """Write the result into a new folder, which appears whole or not at all; an existing one is a `UserError`."""
        write_results(Path(folder), [self])

    @classmethod
    def read(cls, folder: Path | str) -> "Result":
        """Read the single result in a folder. Several results are a `UserError`; use `read_results` for them."""
        found = read_results(Path(folder))
        if len(found) != 1:
            policies = ", ".join(result.scenario.policy for result in found)
            raise UserError(f"{folder} has {len(found)} results ({policies}), not one; read them with read_results")
        return found[0]


def write_results(
    folder: Path,
    results: Sequence[Result],
    summaries: Sequence[Summary] | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write results of different policies into a new folder, or replace one; it appears whole or not at all.

    `summaries` are rows of `summary.parquet` with more columns than the results' own, such as comparisons. `facts` are
    additional metadata about all results. Raises a `UserError` for two results of one policy.
    """
    policies = [result.scenario.policy for result in results]
    for policy in policies:
        if policies.count(policy) > 1:
            raise UserError(
                f"{folder}: {policies.count(policy)} results of policy {policy}; a folder has one result per policy"
            )
    meta = {"schema_version": SCHEMA_VERSION, **(facts or {}), "runs": [_meta_of(result) for result in results]}
    rows = [result.summary for result in results] if summaries is None else summaries
    with new_folder(folder, "results", replaces=RESULT_FILES if overwrite else None) as partial:
        write_frame(partial / "summary.parquet", pd.DataFrame(list(rows)), meta)
        for name in TABLES:
            frames = [(result.scenario.policy, getattr(result, name)) for result in results]
            stacked = [_labelled(policy, frame) for policy, frame in frames if frame is not None]
            if stacked:
                schema = event_schema() if name == "events" else None
                write_frame(partial / f"{name}.parquet", pd.concat(stacked, ignore_index=True), meta, schema)
        seal(partial, meta)


def seal(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write `meta.json`, with the hashes of all tables in the folder and of itself."""
    files = {path.name: sha256_of(path) for path in sorted(folder.glob("*.parquet"))}
    write_json(folder / "meta.json", sealed({**meta, "files": files}), sort=False)


def read_results(folder: Path | str) -> list[Result]:
    """Read the results in a folder, in the order in which they were written.

    Raises a `UserError` if a file is missing or has been changed since.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    frames = {name: _table(folder, name, meta) for name in TABLES if f"{name}.parquet" in meta["files"]}
    try:
        return [_result_of(run, frames) for run in meta["runs"]]
    except FieldError as error:
        raise UserError(f"{folder / 'meta.json'}: field runs.scenario.{error}") from error


def read_compared(folder: Path | str) -> list[Result]:
    """Read the results in a folder, with comparison columns such as `prefetching_pays` in their summaries."""
    rows = read_summaries(folder).astype(object)
    names = [str(name) for name in rows.columns]
    facts = rows.where(rows.notna(), None).to_numpy().tolist()
    both = zip(read_results(folder), facts, strict=True)
    return [replace(result, summary=dict(zip(names, row, strict=True)) | result.summary) for result, row in both]


def read_summaries(folder: Path | str) -> pd.DataFrame:
    """Read the rows of `summary.parquet`: the figures of each run, and comparisons with the reference runs."""
    return _table(Path(folder), "summary", read_meta(Path(folder)))


def read_meta(
    folder: Path, *, version: int = SCHEMA_VERSION, what: str = "a folder of results", holding: str = "runs"
) -> dict[str, Any]:
    """Read `meta.json` of a sealed folder, by default of results; other kinds of folder have other keys than `holding`.

    Raises a `UserError` if it is missing, was changed, or has another schema version.
    """
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(absent(path, what)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from error
    if not isinstance(meta, dict):
        raise UserError(f"{path}: is not a JSON object")
    found = meta.get("schema_version")
    if found is None or holding not in meta:
        raise UserError(f"{folder} is not {what}")
    if found != version:
        raise UserError(f"{path}: field schema_version: must be {version}, not {found}; repeat the run")
    if not is_sealed(meta):
        raise UserError(f"{path}: field sha256: does not match; the file was changed after it was written")
    return meta


def _table(folder: Path, name: str, meta: Mapping[str, Any]) -> pd.DataFrame:
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise UserError(f"{path}: is missing")
    frame, _ = read_frame(path)
    if sha256_of(path) != meta["files"][path.name]:
        raise UserError(f"{path} was changed after it was written")
    return frame


def _meta_of(result: Result) -> dict[str, Any]:
    return {
        "scenario": to_data(result.scenario),
        "provenance": dict(result.provenance),
        "content_hash": result.content_hash,
        "summary": result.summary,
    }


def _result_of(run: Mapping[str, Any], frames: Mapping[str, pd.DataFrame]) -> Result:
    scenario = from_data(Scenario, run["scenario"])
    own = {
        name: frame[frame["policy"] == scenario.policy].drop(columns="policy").reset_index(drop=True)
        for name, frame in frames.items()
        if name not in _finer_than(scenario.detail)  # finer tables belong to other runs
    }
    if "events" in own:
        own["events"] = with_tuples(own["events"])
    return Result(
        scenario=scenario,
        provenance=run["provenance"],
        content_hash=run["content_hash"],
        summary=run["summary"],
        requests=own["requests"],
        iterations=own.get("iterations"),
        events=own.get("events"),
    )


def _finer_than(detail: Detail) -> tuple[str, ...]:
    return TABLES[TABLES.index(detail) + 1 :]


def _labelled(policy: str, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(policy=policy)[["policy", *frame.columns]]
