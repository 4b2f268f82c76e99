"""Simulated results that pass for measured ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from common.parquet import write_frame
from sim.results.result import seal

Change = Callable[[str, pd.DataFrame], None]
Edit = Callable[[dict[str, Any]], None]


def passed_off(simulated: Path, to: Path, change: Change | None = None, edit: Edit | None = None) -> Path:
    """A copy that says it was measured; `change` may alter each table, by name, and `edit` what is said of each run."""
    shutil.copytree(simulated, to)
    meta = json.loads((simulated / "meta.json").read_text())
    for run in meta["runs"]:
        run["summary"]["simulated"] = False
        run["provenance"]["machine"] |= {"name": "bench", "described": "bench"}
        if edit:
            edit(run)
    for file in to.glob("*.parquet"):
        frame = pd.read_parquet(file)
        if file.stem == "summary":
            frame["simulated"] = False
        if change:
            change(file.stem, frame)
        write_frame(file, frame, meta)
    seal(to, {name: meta[name] for name in ("schema_version", "runs")})
    return to


def slower(name: str, frame: pd.DataFrame) -> None:
    """Every time is a quarter longer."""
    for column in frame.columns:
        if column.endswith("_s") or "_s_" in column:
            frame[column] *= 1.25
