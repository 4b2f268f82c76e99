"""A finished sweep: a table with a row per run, and the folder with its files.

sweep.parquet    the table; `pandas.read_parquet` reads it
meta.json        schema version, axes, the experiment; hashes
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from typing_extensions import override

from common.errors import UserError
from common.files import Contents, new_folder
from common.hashing import sha256_of
from common.parquet import read_frame, write_frame
from sim.results.result import read_meta, seal
from sim.sweeps.sweep_columns import OUTCOMES, tidy
from sim.sweeps.sweep_report import report

SCHEMA_VERSION = 2
TABLE, META = "sweep.parquet", "meta.json"
SWEEP_FILES = Contents(META, "axes", (TABLE,))
"""The files in the folder of a sweep; only such a folder is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Sweep:
    """The runs of a sweep. All times are simulated."""

    frame: pd.DataFrame
    """A row per run of the matrix, in its order. Columns: each axis; `policy`, `seed`, `status`, `reason`, `key`; for
    finished runs also their figures (units in the names), their inputs and their reference runs. A figure with the name
    of an axis is left out."""
    axes: tuple[str, ...]
    """The dotted names of the fields that vary, such as `cache.share`; a policy's setting is `policy.SETTING`."""
    experiment: Mapping[str, Any]
    """The experiment as plain data."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", tuple(self.axes))
        object.__setattr__(self, "frame", tidy(self.frame, self.axes))

    def report(self) -> str:
        """Heading, tables and notes, at most 100 characters wide."""
        return report(self.frame, self.axes, self.experiment)

    def json(self) -> str:
        """The table as a list of objects, one per row, indented."""
        rows = json.loads(self.frame.to_json(orient="records", double_precision=15))
        return json.dumps(rows, indent=2)

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sweep):
            return NotImplemented
        return _meta_of(self) == _meta_of(other) and self.frame.equals(other.frame)

    __hash__ = None  # type: ignore[assignment]  # frames have none

    @override
    def __repr__(self) -> str:
        counts = self.frame["status"].value_counts()
        outcomes = ", ".join(f"{counts[each]} {each}" for each in OUTCOMES if each in counts)
        return f"<Sweep over {', '.join(self.axes) or 'nothing'}: {len(self.frame)} runs, {outcomes or 'none'}>"

    def write(self, folder: Path | str, *, overwrite: bool = False) -> None:
        """Write the sweep into a folder, which appears whole or not at all; an existing one needs `overwrite`."""
        meta = _meta_of(self)
        with new_folder(Path(folder), "the sweep", replaces=SWEEP_FILES if overwrite else None) as partial:
            write_frame(partial / TABLE, self.frame, meta)
            seal(partial, meta)

    @classmethod
    def read(cls, folder: Path | str) -> "Sweep":
        """Read a sweep. Raises a `UserError` if a file is missing, was changed or has another schema version."""
        folder = Path(folder)
        if (folder / META).exists() and not holds_sweep(folder):
            raise UserError(f"{folder} is not the folder of a sweep")
        meta = read_meta(folder, version=SCHEMA_VERSION, what="the folder of a sweep", holding="axes")
        path = folder / TABLE
        frame, _ = read_frame(path)
        if sha256_of(path) != meta["files"].get(TABLE):
            raise UserError(f"{path} was changed after it was written")
        return cls(frame=frame, axes=tuple(meta["axes"]), experiment=meta["experiment"])


def holds_sweep(folder: Path) -> bool:
    """Whether `Sweep.write` wrote this folder, even if it is damaged since."""
    try:
        return (folder / TABLE).exists() or TABLE in (folder / META).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def _meta_of(sweep: Sweep) -> dict[str, Any]:
    experiment = _without_infinity(dict(sweep.experiment))
    return {"schema_version": SCHEMA_VERSION, "axes": list(sweep.axes), "experiment": experiment}


def _without_infinity(data: Any) -> Any:
    """Plain data in which infinite numbers are the text `inf`, because JSON does not have them."""
    if isinstance(data, Mapping):
        return {key: _without_infinity(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_infinity(value) for value in data]
    return str(data) if isinstance(data, float) and math.isinf(data) else data
