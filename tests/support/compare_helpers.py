"""Simulated results that pass for measured ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from sim.results.summary import write_frame

Change = Callable[[str, pd.DataFrame], None]


def passed_off(simulated: Path, to: Path, change: Change | None = None, **meta: Any) -> Path:
    """A copy that says it was measured; `change` may alter each table, by name, in place."""
    shutil.copytree(simulated, to)
    described = json.loads((simulated / "meta.json").read_text()) | {"simulated": False, "hardware": "bench"} | meta
    (to / "meta.json").write_text(json.dumps(described))
    for file in to.glob("*.parquet"):
        frame = pd.read_parquet(file)
        if file.stem == "summary":
            frame["simulated"] = False
        if change:
            change(file.stem, frame)
        write_frame(file, frame, described)
    return to


def slower(name: str, frame: pd.DataFrame) -> None:
    """Every time is a quarter longer."""
    for column in frame.columns:
        if column.endswith("_s") or "_s_" in column:
            frame[column] *= 1.25
