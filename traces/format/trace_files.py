"""The files in the folder of a trace; only such a folder is replaced."""

import shutil
from pathlib import Path

from common.files import Contents, new_folder

TRACE_FILES = Contents("meta.json", "format_version", ("requests.parquet", "tokens.parquet", "embeddings.parquet"))


def copy_trace(trace: Path, target: Path, *, overwrite: bool) -> None:
    """Copy a trace, all or nothing; an existing trace is replaced only with `overwrite`."""
    with new_folder(target, "the trace", replaces=TRACE_FILES if overwrite else None) as partial:
        shutil.copytree(trace, partial, dirs_exist_ok=True)
