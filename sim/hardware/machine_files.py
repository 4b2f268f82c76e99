"""Finds the machine that a text names."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from common.errors import FieldError, UserError, nearest
from common.settings import from_data
from common.toml_files import read_toml
from sim.hardware import presets, profile
from sim.hardware.data_sheet import SECTIONS, DataSheetMachine
from sim.hardware.machine import Machine
from sim.hardware.machine_text import parts_of, tables_of, text_of, value_of
from sim.hardware.scaled import Scale, ScaledMachine

_SCALE = "scale."


def machine_named(text: str) -> Machine:
    """The machine `NAME_OR_FILE[,key=value…]`: a preset or a `.toml` file, with changed figures.

    A file is a data sheet or a measured profile. Keys are the dotted keys of a data sheet; in a profile only effects
    can be changed. `scale.link=2` and the like make a part of any machine faster. The whole text is the machine's
    name, unless it sets `name`. Raises a `UserError` for an unknown machine or a wrong key or value.
    """
    try:
        name, settings = parts_of(text)
        base = _base(name)
        return _with(base, settings) if settings else base
    except FieldError as error:
        raise UserError(f"machine {text}: {error}") from None


def keys_of(machine: Machine) -> list[str]:
    """The dotted keys that a text may set on a machine."""
    if isinstance(machine, DataSheetMachine):
        return keys_of_data_sheets()
    effects = [f"{section}.{each.name}" for section, part in profile.EFFECTS.items() for each in fields(part)]
    return ["name", "demand_loading", "framework", *effects, *_scales()]


def keys_of_data_sheets() -> list[str]:
    """The keys that a text may set on a data sheet: all keys for a profile, and more."""
    figures = [f"{section}.{each.name}" for section, part in SECTIONS.items() for each in fields(part)]
    single = [key for key in presets.KEYS if key not in SECTIONS and key != "extends"]
    return [*single, "framework", *figures, *_scales()]


def _base(name: str) -> Machine:
    """The machine without changes. A file's kind is the one that more of its keys belong to, without shared keys."""
    if not name.endswith(".toml"):
        return presets.preset(name)
    path = Path(name)
    keys = read_toml(path).keys()
    of_profile, of_sheet = keys & profile.KEYS, keys & set(presets.KEYS)
    if len(of_profile - of_sheet) > len(of_sheet - of_profile):
        return profile.read_profile(path)
    return presets.read_data_sheet(path)


def _with(base: Machine, settings: dict[str, str]) -> Machine:
    """The machine with changed figures and the name that results from them."""
    known = keys_of(base)
    for key in settings:
        if key not in known:
            raise FieldError(key, f"is not a setting of {base.name}; {nearest(key, known)}")
    values = {key: value_of(key, text) for key, text in settings.items()}
    own_name = values.pop("name", None)
    if own_name is not None and not isinstance(own_name, str):
        raise FieldError("name", f"must be a string, not {own_name!r}")
    scale = _scale({key: values.pop(key) for key in settings if key.startswith(_SCALE)})
    machine = _renamed(base, own_name or text_of(base.name, {key: settings[key] for key in values}), values)
    if not scale.changed():
        return machine
    shown = {key: text for key, text in settings.items() if key != "name"}
    return ScaledMachine(name=own_name or text_of(base.name, shown), machine=machine, scale=scale)


def _renamed(base: Machine, name: str, values: dict[str, Any]) -> Machine:
    """The machine with this name and these figures."""
    tables = tables_of({**values, "name": name})
    if isinstance(base, DataSheetMachine):
        return presets.changed(base, tables)
    assert isinstance(base, profile.Profile)
    if isinstance(known := tables.get("framework"), str):
        tables["framework"] = presets.framework(known).data
    return base.with_effects(tables)


def _scales() -> list[str]:
    return [f"{_SCALE}{each.name}" for each in fields(Scale)]


def _scale(factors: dict[str, Any]) -> Scale:
    try:
        return from_data(Scale, {key.removeprefix(_SCALE): factor for key, factor in factors.items()})
    except FieldError as error:
        raise error.inside(_SCALE.removesuffix(".")) from None
