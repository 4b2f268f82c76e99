"""The figures of a machine, each with its unit, kind and source."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from common.settings import to_data
from sim.hardware.data_sheet import SECTIONS, DataSheetMachine
from sim.hardware.machine import Machine
from sim.hardware.origins import NO_SOURCE, Origin, origin_of
from sim.hardware.profile import Profile, Table
from sim.hardware.scaled import ScaledMachine

# Units by the end of a key. The first unit whose factor is not larger than the value is used.
_UNITS = {
    "flops_per_s": ((1e12, "TFLOP/s"), (1e9, "GFLOP/s")),
    "bytes_per_s": ((1e9, "GB/s"),),
    "memory_bytes": ((1e9, "GB"),),
    "_s": ((1e-3, "ms"), (1e-6, "µs")),
    "seconds": ((1e-3, "ms"), (1e-6, "µs")),
    "slowdown": ((1.0, "times"),),
}
_ASKED = "assumption: what if"
_TABLES = {"dense": "tokens", "expert": "tokens", "head": "rows", "copy": "bytes"}  # of a profile


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFigure:
    """A figure of a machine."""

    key: str
    value: Any
    """The value as in a file."""
    text: str
    """The value with its unit."""
    origin: Origin
    source: str


def figures_of(machine: Machine) -> list[MachineFigure]:
    """The figures of a machine; effects that are off are left out."""
    if isinstance(machine, ScaledMachine):
        factors = machine.scale.changed().items()
        scaled = [_figure(f"scale.{name}", factor, f"{factor:g} times as fast", _ASKED) for name, factor in factors]
        return [*figures_of(machine.machine), *scaled]
    if isinstance(machine, DataSheetMachine):
        return list(_sheet_figures(machine))
    return list(_profile_figures(machine)) if isinstance(machine, Profile) else []


def not_modelled(machine: Machine) -> list[str]:
    """The tables that a data sheet does not have: effects that are off, and efficiencies."""
    if isinstance(machine, ScaledMachine):
        return not_modelled(machine.machine)
    if not isinstance(machine, DataSheetMachine):
        return []
    described = {figure.key.partition(".")[0] for figure in figures_of(machine)}
    return [section for section in SECTIONS if section not in {*described, "pageable_link"}]


def _sheet_figures(machine: DataSheetMachine) -> Iterator[MachineFigure]:
    data = to_data(machine, defaults=False)
    idle = "pageable_link" if machine.copies == "pinned" else "host_link"
    unused = f" (unused: copies are {machine.copies})"
    for key, value in data.items():
        if key in SECTIONS:
            for inner, figure in value.items():
                if inner != "name":
                    dotted = f"{key}.{inner}"
                    source = machine.sources.get(dotted, NO_SOURCE) + (unused if key == idle else "")
                    yield _figure(dotted, figure, _text(dotted, figure), source)
        elif key not in ("name", "sources"):
            yield _figure(key, value, str(value), machine.sources.get(key, NO_SOURCE))
    for key in ("demand_loading", "copies"):
        if key not in data:
            value = getattr(machine, key)
            yield _figure(key, value, value, machine.sources.get(key, NO_SOURCE))


def _profile_figures(profile: Profile) -> Iterator[MachineFigure]:
    measured = f"measured: {profile.name}"
    for key, unit in _TABLES.items():
        table: Table = getattr(profile, key)
        first, last = (f"{1e6 * seconds:.4g} µs for {size} {unit}" for size, seconds in _ends(table))
        text = first if len(table.sizes) == 1 else f"{first} … {last}"
        yield _figure(key, list(zip(table.sizes, table.seconds, strict=True)), text, measured)
    figures: dict[str, float] = {
        "copy.latency_s": profile.copy_latency_s,
        "driving.seconds": profile.driving_s,
        "search.overhead_s": profile.search_overhead_s,
        "search.bytes_per_s": profile.search_bytes_per_s,
        "search.flops_per_s": profile.search_flops_per_s,
    }
    if profile.demand_loading != "parallel":
        yield _figure("demand_loading", profile.demand_loading, profile.demand_loading, _ASKED)
    for section in ("host", "framework", "contention"):
        values = to_data(getattr(profile, section), defaults=False)
        figures |= {f"{section}.{name}": value for name, value in values.items()}
    for key, value in figures.items():
        assumed = key.partition(".")[0] in profile.assumed
        yield _figure(key, value, _text(key, value), _ASKED if assumed else measured)


def _ends(table: Table) -> Iterator[tuple[int, float]]:
    yield table.sizes[0], table.seconds[0]
    yield table.sizes[-1], table.seconds[-1]


def _figure(key: str, value: Any, text: str, source: str) -> MachineFigure:
    return MachineFigure(key=key, value=value, text=text, origin=origin_of(source), source=source)


def _text(key: str, value: Any) -> str:
    """A value in a readable unit."""
    if isinstance(value, list):
        return ", ".join(f"{100 * share:.4g}% at {_size(key, size)}" for size, share in value)
    units = next(found for end, found in _UNITS.items() if key.endswith(end))
    factor, unit = next((found for found in units if value >= found[0]), units[-1])
    return "unlimited" if value == math.inf else f"{value / factor:.6g} {unit}"


def _size(key: str, size: float) -> str:
    if not key.endswith("link.efficiency"):
        return f"{size:.6g}"
    return f"{size / 1e6:.4g} MB" if size >= 1e6 else f"{size / 1e3:.4g} kB"
