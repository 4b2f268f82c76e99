"""The folder of tables and pictures that `traces analyse --out` makes."""

from pathlib import Path

from common.files import new_folder, write_json
from common.parquet import write_frame
from traces.analysis.trace_analysis import Analysis


def write_folder(folder: Path, found: Analysis) -> None:
    """A file per table and picture, and `meta.json`, in a new folder that appears whole or not at all."""
    from traces.analysis.analysis_figures import draw_all

    with new_folder(folder, "results") as partial:
        for name, table in found.tables.items():
            write_frame(partial / f"{name}.parquet", table, found.meta)
        draw_all(found, partial)
        write_json(partial / "meta.json", found.meta)
