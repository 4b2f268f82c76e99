"""Machines from data sheets, in TOML files: the presets that ship with the project, and those of users.

    extends = "rtx3090"                                          # a preset, or another file beside this one
    gpus = 2
    [gpu]
    memory_bytes = { value = 48e9, source = "data sheet" }       # a figure with its source, or a plain number

A file says only in what it differs from what it extends. `docs/machines.md` lists all keys.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import FieldError, UserError, nearest
from common.settings import from_data, to_data
from common.toml_files import read_toml
from sim.hardware.data_sheet import DataSheetMachine

KEYS = ("extends", "name", "gpus", "gpu", "host_link", "peer_link", "search", "demand_loading")
NO_SOURCE = "not stated"

_FOLDER = Path(__file__).with_name("data_sheets")


def preset_names() -> list[str]:
    """The machines that ship with the project."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def preset(name: str) -> DataSheetMachine:
    """A named machine; an unknown name is a `UserError` that lists all and says how to describe another."""
    _check_known(name)
    return read_data_sheet(_FOLDER / f"{name}.toml")


def read_data_sheet(path: Path) -> DataSheetMachine:
    """The machine in a file, called as its `name` or the file says.

    Every mistake is a `UserError` that names file and key; one in a file that is extended names that file.
    """
    return _read(path, ())


class _Figures(NamedTuple):
    """What a file says: plain data, and the source of each number by its dotted key."""

    data: dict[str, Any]
    sources: dict[str, str]


def _read(path: Path, extending: tuple[Path, ...]) -> DataSheetMachine:
    """`extending` are the files that led here, each extending the next."""
    said = read_toml(path)
    try:
        for key in said:
            if key not in KEYS:
                raise FieldError(key, f"is not a setting; {nearest(key, KEYS)}")
        base = _extended(path, said, (*extending, path))
        own = _split(said)
        whole = {"name": path.stem} | base.data
        for key, value in own.data.items():
            inherited = base.data.get(key)
            whole[key] = inherited | value if isinstance(value, dict) and isinstance(inherited, dict) else value
        return from_data(DataSheetMachine, whole | {"sources": base.sources | own.sources})
    except FieldError as error:
        raise UserError(f"{path}: {error}") from None


def _extended(path: Path, said: dict[str, Any], extending: tuple[Path, ...]) -> _Figures:
    """The figures that a file starts from; it takes `extends` out of what it says."""
    if "extends" not in said:
        return _Figures({}, {})
    name = said.pop("extends")
    if not isinstance(name, str):
        raise FieldError("extends", f"must be a string, value {name!r}")
    if name.endswith(".toml"):
        other = path.parent / name
    else:
        try:
            _check_known(name)
        except UserError as error:
            raise FieldError("extends", str(error)) from None
        other = _FOLDER / f"{name}.toml"
    visited = [each.resolve() for each in extending]
    if other.resolve() in visited:
        circle = [*extending[visited.index(other.resolve()) :], other]
        raise FieldError("extends", f"files extend each other in a circle: {' → '.join(map(str, circle))}")
    data = to_data(_read(other, extending))
    sources = data.pop("sources")
    del data["name"]
    return _Figures(data, sources)


def _split(said: Mapping[str, Any], place: str = "") -> _Figures:
    """Take figures and sources apart; what is neither is left for the check of types."""
    found = _Figures({}, {})
    for key, value in said.items():
        dotted = f"{place}{key}"
        if isinstance(value, dict) and not value.keys() & {"value", "source"} and not place:
            inner = _split(value, f"{dotted}.")
            found.data[key] = inner.data
            found.sources.update(inner.sources)
            continue
        if isinstance(value, dict):
            value, found.sources[dotted] = _sourced(value, dotted)
        elif isinstance(value, int | float):
            found.sources[dotted] = NO_SOURCE
        found.data[key] = value
    return found


def _sourced(figure: Mapping[str, Any], place: str) -> tuple[Any, str]:
    """The two halves of `{ value = 24e9, source = "data sheet" }`."""
    for key in figure:
        if key not in ("value", "source"):
            raise FieldError(f"{place}.{key}", f"is not a setting; {nearest(key, ('value', 'source'))}")
    for key in ("value", "source"):
        if key not in figure:
            raise FieldError(f"{place}.{key}", "is required")
    source = figure["source"]
    if not isinstance(source, str) or not source:
        raise FieldError(f"{place}.source", f"must be a text, value {source!r}")
    return figure["value"], source


def _check_known(name: str) -> None:
    if name not in (known := preset_names()):
        raise UserError(
            f"unknown machine {name!r}; known: {', '.join(known)}; describe another in a FILE.toml, which may say "
            f'extends = "{known[-1]}" and only what differs'
        )
