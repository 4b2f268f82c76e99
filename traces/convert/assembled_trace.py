"""Write a trace from rows of routing."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from traces.convert.conversion_settings import ImportTarget
from traces.convert.imported_trace import imported, write_trace
from traces.convert.routing_row import Row
from traces.convert.row_assembly import Assembler


def write_rows(
    rows: Iterable[Row],
    assembler: Assembler,
    target: ImportTarget,
    notes: Sequence[str],
    plan: Mapping[str, Any],
    dropped: Callable[[], int] = int,
) -> Path:
    """Assemble rows to requests and write the trace; deviations from the recording go to stderr and to its notes.

    `dropped` is called at the end and returns the number of warm-up rows that were dropped.
    """
    pairs = assembler.requests(rows)
    first = next(pairs)  # determines the columns of the trace
    meta = imported(assembler.shape, target, notes, gate_complete=assembler.has["gate"], prefill=assembler.prefill)

    def found() -> list[str]:
        return [f"{dropped()} warm-up rows were dropped"] * (dropped() > 0) + assembler.notes()

    out = write_trace(target, meta, chain([first], pairs), plan=plan, notes=found)
    for note in found():
        print(note, file=sys.stderr)
    return out
