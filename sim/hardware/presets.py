"""Data-sheet machines in TOML files: the presets that ship with the project, and users' own.

    extends = "rtx3090"                                          # a preset, or another file beside this one
    gpus = 2
    [gpu]
    memory_bytes = { value = 48e9, source = "data sheet" }       # a figure with its source, or a plain number

A file lists only its differences from the file that it extends. `docs/machines.md` has all keys.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import FieldError, UnknownNameError, UserError, nearest
from common.settings import from_data, to_data
from common.toml_files import read_toml
from sim.hardware.data_sheet import DataSheetMachine
from sim.hardware.origins import NO_SOURCE

KEYS = ("extends", *(each.name for each in fields(DataSheetMachine) if each.name != "sources"))
NO_FRAMEWORK = "none"

_FOLDER = Path(__file__).with_name("data_sheets")
_FRAMEWORKS = Path(__file__).with_name("frameworks")


class Figures(NamedTuple):
    """The contents of a file: plain data, and the source of each figure by its dotted key."""

    data: dict[str, Any]
    sources: dict[str, str]


def preset_names() -> list[str]:
    """The names of the machines that ship with the project."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def framework_names() -> list[str]:
    """The names of the serving frameworks that ship with the project, and `none`."""
    return [NO_FRAMEWORK, *sorted(path.stem for path in _FRAMEWORKS.glob("*.toml"))]


def preset(name: str) -> DataSheetMachine:
    """A preset by name. An unknown name raises a `UserError` that lists all and says how to describe another."""
    _check_known(name)
    return read_data_sheet(_FOLDER / f"{name}.toml")


def read_data_sheet(path: Path) -> DataSheetMachine:
    """Read the machine in a file; without a `name` in it, the file's name is used.

    A mistake raises a `UserError` that names the key and the file that has it, which may be an extended one.
    """
    return _read(path, ())


def changed(machine: DataSheetMachine, given: Mapping[str, Any]) -> DataSheetMachine:
    """The machine with the figures in `given`, given as tables like a file's. A mistake raises a `FieldError`."""
    return _built(_figures_of(machine), given)


def _read(path: Path, extending: tuple[Path, ...]) -> DataSheetMachine:
    """Read a file; `extending` are the files that led to it, each extending the next."""
    tables = read_toml(path)
    try:
        for key in tables:
            if key not in KEYS:
                raise FieldError(key, f"is not a setting; {nearest(key, KEYS)}")
        base = _extended(path, tables, (*extending, path))
        return _built(Figures({"name": path.stem} | base.data, base.sources), tables)
    except FieldError as error:
        raise UserError(f"{path}: {error}") from None


def _built(base: Figures, tables: Mapping[str, Any]) -> DataSheetMachine:
    """The machine of a file's figures on top of the extended ones; a framework's name sets all its figures."""
    own = _split(tables)
    whole, sources = dict(base.data), dict(base.sources)
    if isinstance(own.data.get("framework"), str):
        figures = framework(own.data["framework"])
        sources = {key: source for key, source in sources.items() if not key.startswith("framework.")}
        whole["framework"], own.data["framework"] = {}, figures.data
        own.sources.pop("framework", None)
        own.sources.update(figures.sources)
    for key, value in own.data.items():
        inherited = whole.get(key)
        whole[key] = inherited | value if isinstance(value, dict) and isinstance(inherited, dict) else value
    return from_data(DataSheetMachine, whole | {"sources": sources | own.sources})


def _figures_of(machine: DataSheetMachine) -> Figures:
    data = to_data(machine)
    return Figures(data, data.pop("sources"))


def framework(name: str) -> Figures:
    """The CPU time of a framework that ships with the project."""
    if name == NO_FRAMEWORK:
        return Figures({}, {})
    if name not in (known := framework_names()):
        raise FieldError("framework", f"unknown framework {name!r}; known: {', '.join(known)}, or a table")
    return _split(read_toml(_FRAMEWORKS / f"{name}.toml"), "framework.")


def _extended(path: Path, tables: dict[str, Any], extending: tuple[Path, ...]) -> Figures:
    """The figures of the extended file; `extends` is removed from `tables`."""
    if "extends" not in tables:
        return Figures({}, {})
    name = tables.pop("extends")
    if not isinstance(name, str):
        raise FieldError("extends", f"must be a string, not {name!r}")
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
    figures = _figures_of(_read(other, extending))
    del figures.data["name"]
    return figures


def _split(tables: Mapping[str, Any], place: str = "") -> Figures:
    """Separate figures from sources; anything else is left for the type check."""
    found = Figures({}, {})
    for key, value in tables.items():
        dotted = f"{place}{key}"
        if isinstance(value, dict) and not value.keys() & {"value", "source"} and not place:
            inner = _split(value, f"{dotted}.")
            found.data[key] = inner.data
            found.sources.update(inner.sources)
            continue
        if isinstance(value, dict):
            value, found.sources[dotted] = _sourced(value, dotted)
        elif key != "name" and isinstance(value, int | float | str | list):
            found.sources[dotted] = NO_SOURCE
        found.data[key] = value
    return found


def _sourced(figure: Mapping[str, Any], place: str) -> tuple[Any, str]:
    """The value and the source of `{ value = 24e9, source = "data sheet" }`."""
    for key in figure:
        if key not in ("value", "source"):
            raise FieldError(f"{place}.{key}", f"is not a setting; {nearest(key, ('value', 'source'))}")
    for key in ("value", "source"):
        if key not in figure:
            raise FieldError(f"{place}.{key}", "is required")
    source = figure["source"]
    if not isinstance(source, str) or not source:
        raise FieldError(f"{place}.source", f"must be a string, not {source!r}")
    return figure["value"], source


def _check_known(name: str) -> None:
    if name not in (known := preset_names()):
        raise UnknownNameError(
            f"unknown machine {name!r}; known: {', '.join(known)}, or a FILE.toml with, for example, "
            f'extends = "{known[-1]}" and the differences'
        )
