"""`finemoe sim comparison`: rank the systems on many traces, caches and machines, and write docs/comparison.md."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from common.applications import OUTPUT, OVERWRITE_NAMES, under
from sim.store_options import STORE, place_of_store
from sim.sweeps.workers import Workers

RUNS = Group("Runs", sort_key=40)


def comparison(
    *,
    routing: Annotated[
        Path,
        Parameter(
            help="Folder with any of the comparison's traces, by name: mixtral-8x7b-twin.trace, "
            "qwen1.5-moe-a2.7b-twin.trace, phi-3.5-moe-twin.trace, gpt-oss-20b.trace, gemma-4-26b-a4b.trace. "
            "docs/comparison.md has the commands that make them; `make comparison` makes all."
        ),
    ],
    store: Annotated[Path | None, STORE] = None,
    workers: Annotated[Workers, under(RUNS)] = Workers(),
    out: Annotated[
        Path,
        Parameter(group=OUTPUT, help="Folder to write comparison.md and comparison/ (tables, picture) into."),
    ],
    overwrite: Annotated[bool, OVERWRITE_NAMES] = False,
) -> int:
    """Run every system on every trace, cache and machine, and write which is fastest where, and where the order flips.

    sim/ranking/compared.py lists what is compared. To rank policies on a trace of your own, use `finemoe sim sweep`.
    Runs in the store are not computed again, so the same command resumes after an interruption. All runs together take
    about 17 minutes of processor time, divided among `--jobs`. The exit status is 1 if a run failed.
    """
    from textwrap import fill

    from common.errors import UserError
    from common.outputs import file, reserved
    from common.tables import text_table
    from sim.ranking.compared import COMPARED
    from sim.ranking.comparison_runs import run_comparison
    from sim.ranking.order_tables import with_groups
    from sim.ranking.written_comparison import outputs, write_comparison

    files = outputs(out)
    with reserved(*map(file, files), overwrite=overwrite):
        table = run_comparison(COMPARED, routing, store=place_of_store(store), workers=workers)
        if not table.rows:
            names = ", ".join(f"{each.name}.trace" for each in COMPARED.traces)
            raise UserError(f"{routing} contains none of these traces: {names}")
        orders = write_comparison(table, COMPARED, out)
    letters = ", ".join(f"{each.letter} {each.name}" for each in COMPARED.of_role("system"))
    reading = f"Fastest first; neighbours in brackets tie; ⇅: pairs that swap places compared with {COMPARED.base}."
    print(fill(f"Simulated, not measured. {reading} {letters}", 100))
    for metric in orders.metrics:
        found = orders.order_rows([metric])
        print(f"\n{text_table(with_groups(found.rows), found.headers, texts=len(found.headers))}")
    print(f"\nwrote {files[0]}")
    return int(any(row["status"] == "failed" for row in table.rows))
