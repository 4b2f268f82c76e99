"""`finemoe sim anchors`: simulate published measurements and report the error, in docs/anchors.md."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from common.applications import OUTPUT, OVERWRITE_NAMES, under
from sim.store_options import STORE, place_of_store
from sim.sweeps.workers import Workers

RUNS = Group("Runs", sort_key=40)


def anchors(
    *,
    routing: Annotated[
        Path,
        Parameter(
            help="A trace with the layers, experts per layer and top-k of Mixtral-8x7B (32, 8, 2), or a folder with "
            "mixtral-8x7b-twin.trace. To record that one: finemoe traces collect mixtral-8x7b-twin --continue-text "
            "--chat-template --max-new-tokens 64 --lookahead 1,3 --threads 1 --out ROUTING/mixtral-8x7b-twin.trace."
        ),
    ],
    store: Annotated[Path | None, STORE] = None,
    workers: Annotated[Workers, under(RUNS)] = Workers(),
    out: Annotated[
        Path, Parameter(group=OUTPUT, help="Folder to write anchors.md and anchors/ (tables, picture) into.")
    ],
    overwrite: Annotated[bool, OVERWRITE_NAMES] = False,
) -> int:
    """Simulate published measurements and report the error.

    sim/anchors/published_anchors.py lists what is simulated. Runs in the store are not computed again, so the same
    command resumes after an interruption. All runs together take about two minutes of processor time. The exit status
    is 1 if a run failed.
    """
    from common.outputs import file, reserved
    from common.tables import percent, text_table
    from sim.anchors.anchor_runs import run_anchors
    from sim.anchors.anchor_table import BASE
    from sim.anchors.published_anchors import ANCHORS
    from sim.anchors.written_anchors import outputs, write_anchors

    files = outputs(out)
    trace = routing if routing.suffix == ".trace" else routing / "mixtral-8x7b-twin.trace"
    with reserved(*map(file, files), overwrite=overwrite):
        table = run_anchors(ANCHORS, trace, store=place_of_store(store), workers=workers)
        table = write_anchors(table, ANCHORS, out)
    rows = [
        [row["anchor"], row["point"], f"{row['measured']:g} {row['unit']}", percent(row["error"])]
        for row in table.rows
        if row["variation"] == BASE
    ]
    print("Simulated beside published measurements; the error is that of the time per token.\n")
    print(text_table(rows, ["anchor", "what", "measured", "error of the simulation"], texts=2))
    print(f"\nwrote {files[0]}")
    return int(any(row["status"] == "failed" for row in table.rows))
