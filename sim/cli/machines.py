"""`finemoe sim machines`: list the machines, and show the source of each of their figures."""

import json as json_text
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from common.applications import OUTPUT
from common.folding import WIDTH, folded
from common.tables import MISSING, text_table
from sim.hardware.data_sheet import DataSheetMachine
from sim.hardware.machine import Machine
from sim.hardware.machine_figures import MachineFigure, figures_of, not_modelled
from sim.hardware.machine_files import machine_named
from sim.hardware.presets import framework_names, preset, preset_names

_KEY, _VALUE, _ORIGIN = 27, 16, 9  # columns of the table of figures


def machines(
    *names: Annotated[str, Parameter(help="Machines to show in full: NAME_OR_FILE[,key=value…].")],
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print a JSON list of objects, with all figures.")] = False,
) -> None:
    """List the machines, or show every figure of the named ones with its unit, kind and source."""
    found = [machine_named(name) for name in names] or [preset(name) for name in preset_names()]
    if json:
        print(json_text.dumps([_data(machine) for machine in found], indent=2, allow_nan=False))
    elif names:
        print("\n\n".join("\n".join(_lines(machine)) for machine in found))
    else:
        print(_table([machine for machine in found if isinstance(machine, DataSheetMachine)]))


def _table(presets: list[DataSheetMachine]) -> str:
    headers = ["machine", "GPUs", "memory\nGB", "link\nGB/s", "link is", "host memory\nGB/s", "effects on"]
    rows = []
    for machine in presets:
        link = next(each for each in figures_of(machine) if each.key == "host_link.bytes_per_s")
        host = machine.host.memory_bytes_per_s
        rows.append(
            [
                machine.name,
                f"{machine.gpus} × {machine.gpu.name}",
                f"{machine.gpu.memory_bytes / 1e9:g}",
                f"{machine.host_link.bytes_per_s / 1e9:g}",
                link.origin,
                MISSING if host == math.inf else f"{host / 1e9:g}",
                ", ".join(machine.effects_on()) or MISSING,
            ]
        )
    notes = (
        "Use one with --machine NAME_OR_FILE[,key=value…]. `finemoe sim machines NAME` shows every figure with its "
        f"source. Host memory {MISSING}: not modelled as a limit. Frameworks: {', '.join(framework_names())}."
    )
    return f"{text_table(rows, headers, texts=2)}\n\n{folded(notes)}"


def _lines(machine: Machine) -> Iterator[str]:
    yield folded(machine.describe())
    yield ""
    for figure in figures_of(machine):
        yield _line(figure)
    if off := not_modelled(machine):
        yield ""
        yield folded(f"Off: {', '.join(off)}.")


def _line(figure: MachineFigure) -> str:
    """Key, value, kind and source, the source folded below itself."""
    head = f"{figure.key:<{_KEY}}  {figure.text:<{_VALUE}}  {figure.origin:<{_ORIGIN}}"
    indent = " " * (_KEY + _VALUE + _ORIGIN + 6)
    if len(figure.text) > _VALUE:
        head = f"{figure.key:<{_KEY}}  {figure.text}\n{' ' * (_KEY + _VALUE + 4)}{figure.origin:<{_ORIGIN}}"
    first, *rest = folded(figure.source, WIDTH - len(indent)).splitlines()
    return "\n".join([f"{head}  {first}", *(f"{indent}{line}" for line in rest)])


def _data(machine: Machine) -> dict[str, Any]:
    figures = [asdict(figure) for figure in figures_of(machine)]
    for figure in figures:
        if figure["value"] == math.inf:
            figure["value"] = "inf"
    return {
        "name": machine.name,
        "described": machine.describe(),
        "gpus": machine.gpus,
        "digest": machine.digest,
        "figures": figures,
        "not_modelled": not_modelled(machine),
    }
