"""The result store on the command line: the option of every command that uses one."""

import os
from pathlib import Path

from cyclopts import Parameter

from common.applications import OUTPUT
from common.errors import UserError
from common.outputs import is_within

DEFAULT_STORE = "finemoe-store"
STORE = Parameter(
    group=OUTPUT,
    help="Result store: a folder of finished runs, created if missing. Default: $FINEMOE_STORE, or "
    f"{DEFAULT_STORE} in the current folder.",
)


def place_of_store(chosen: Path | None) -> Path:
    """The chosen store, or the default one."""
    return chosen or Path(os.environ.get("FINEMOE_STORE") or DEFAULT_STORE)


def check_apart(store: Path | None, out: Path | None) -> None:
    """Raise a `UserError` if one of the two lies within the other, since `out` appears, and is replaced, whole."""
    if store and out and is_within(store, out):
        raise UserError(f"`store` {store} and `out` {out} must not lie within each other")
