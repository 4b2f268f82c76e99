"""`finemoe sim store COMMAND`: look at a result store, and clean it up."""

import json as json_text
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from common.applications import OUTPUT, application
from common.listed_command import Command
from sim.store_options import place_of_store

_FOLDER = Annotated[
    Path | None, Parameter(help="Result store. Default: $FINEMOE_STORE, or finemoe-store in the current folder.")
]

COMMANDS = {
    "ls": Command("sim.cli.store:ls", "List the runs in a store.", "ls finemoe-store"),
    "info": Command(
        "sim.cli.store:info", "Show the number and size of runs, bounds and artefacts.", "info finemoe-store"
    ),
    "gc": Command(
        "sim.cli.store:gc",
        "Delete broken runs, and runs made with other versions of the code or libraries.",
        "gc finemoe-store --unused-days 30 --dry-run",
    ),
}
app = application(
    "finemoe sim store",
    "Inspect a result store, or clean it up.",
    COMMANDS,
    example="info finemoe-store",
    nested=True,
)


def ls(
    store: _FOLDER = None,
    /,
    *,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print a JSON list of objects, with all figures.")] = False,
) -> None:
    """List the runs in a store, by policy."""
    from sim.store.inventory import listed, run_table
    from sim.store.result_store import ResultStore

    runs = listed(ResultStore.open(place_of_store(store), create=False))
    print(json_text.dumps(runs, indent=1) if json else run_table(runs))


def info(
    store: _FOLDER = None,
    /,
    *,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print a JSON object.")] = False,
) -> None:
    """Show the number, size and computing time of the runs, bounds, failures and artefacts in a store."""
    from sim.store.inventory import facts, facts_table
    from sim.store.result_store import ResultStore

    found = facts(ResultStore.open(place_of_store(store), create=False))
    print(json_text.dumps(found, indent=1) if json else facts_table(found))


def gc(
    store: _FOLDER = None,
    /,
    *,
    unused_days: Annotated[
        int | None, Parameter(help="Also delete artefacts that were not used for N days. They are rebuilt when needed.")
    ] = None,
    dry_run: Annotated[bool, Parameter(help="Print what would be deleted, and delete nothing.")] = False,
) -> None:
    """Delete broken runs, runs made with other versions of the code or libraries, and leftovers of killed processes.

    Runs that another process is computing are left alone.
    """
    from common.errors import FieldError
    from sim.store.inventory import collected
    from sim.store.result_store import ResultStore

    if unused_days is not None and unused_days < 0:
        raise FieldError("unused_days", f"must be at least 0, not {unused_days}")
    opened = ResultStore.open(place_of_store(store), create=False)
    print(collected(opened, unused_days=unused_days, dry_run=dry_run))
