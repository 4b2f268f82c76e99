"""The folder of tables and figures that `finemoe traces analyse --out` writes."""

from pathlib import Path

from common.files import new_folder, write_json
from common.parquet import write_frame
from traces.analysis.analysis_settings import ANALYSIS_FILES
from traces.analysis.trace_analysis import Analysis


def write_folder(folder: Path, found: Analysis, *, overwrite: bool = False) -> None:
    """Write a file per table and figure, and `meta.json`, into a folder, completely or not at all."""
    from traces.analysis.analysis_figures import draw_all

    with new_folder(folder, "results", replaces=ANALYSIS_FILES if overwrite else None) as partial:
        for name, table in found.tables.items():
            write_frame(partial / f"{name}.parquet", table, found.meta)
        draw_all(found, partial)
        write_json(partial / "meta.json", found.meta)
