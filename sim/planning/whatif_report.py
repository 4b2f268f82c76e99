"""Text report of a what-if, for terminals of 100 columns: how much each resource matters, and what time hangs on."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from common.errors import listed
from common.folding import NAME_WIDTH, WIDTH, folded, folded_name
from common.tables import MISSING, Unit, number, text_table, time_unit
from common.wide_tables import wide_table
from sim.labels import footnotes, marked
from sim.planning.resources import FACTORS, SPEEDS, factor_text
from sim.planning.sensitivity import changes, sides
from sim.results.working_set import cache_too_small
from sim.sweeps.sweep import Sweep
from sim.sweeps.sweep_columns import plain_rows
from sim.sweeps.sweep_report import not_done
from sim.sweeps.sweep_subject import subject

SHOWN = (0.5, 1.0, 2.0, 4.0)  # of the factors, in tables
NEIGHBOURS = FACTORS[1], FACTORS[3]  # of 1×
AT_1X = 24  # characters of what there is at 1×
Row = Mapping[str, Any]

ELASTICITY = (
    "elasticity: by how many % the time changes with 1% more of the resource, d ln(time) / d ln(factor). -1: twice as "
    "much halves the time; 0: no change. Estimated from 0.71×, 1× and 1.41×, in logarithms."
)
ALONE = (
    "Each resource varies alone. Slots are counted over all GPUs: more GPUs share the same slots, but each adds a "
    "link. GPUs vary in whole numbers only."
)
PARTS = (
    "copies: waiting for experts (missed, late, of a later wave, or prefetched); search: waiting for predictions; "
    "overhead: starting operations, and CPU time. A change lies between two simulated factors."
)


def report(sweep: Sweep) -> str:
    """The report: heading, tables for each policy and notes, in lines of at most 100 characters."""
    rows: Sequence[Row] = plain_rows(sweep.frame)
    base = at_1x(sweep.frame)
    parts = ["\n".join(folded(line, WIDTH, "  ") for line in subject(base, sweep.experiment))]
    tables = [_Tables(str(policy), [row for row in rows if row["policy"] == policy]) for policy in _policies(base)]
    if len(tables) > 1:
        parts.append(_compared(tables))
    for each in tables:
        parts += each.parts()
    notes = [*_notes(rows), *_checked(tables), *dict.fromkeys(note for each in tables for note in each.notes())]
    parts.append("\n".join(folded(note, WIDTH, "  ") for note in notes))
    parts += not_done(sweep.frame, sweep.axes)
    return "\n\n".join(part for part in parts if part)


def at_1x(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the unchanged scenario, one for each policy and resource."""
    return frame[frame["factor"] == 1.0]


class _Tables:
    """The tables of a policy."""

    def __init__(self, policy: str, rows: Sequence[Row]) -> None:
        self.base = next(row for row in rows if row["factor"] == 1)
        self.name = marked(folded_name(policy, NAME_WIDTH), self.base) if self.is_done else policy
        self.resources: dict[str, list[Row]] = {}
        for row in rows:
            self.resources.setdefault(str(row["resource"]), []).append(row)

    @property
    def is_done(self) -> bool:
        return bool(self.base["status"] == "done")

    def elasticity(self, resource: str, time: str = "tpot") -> float | None:
        """The elasticity of a time at 1×."""
        return next((row[f"{time}_elasticity"] for row in self.resources[resource] if row["factor"] == 1), None)

    @property
    def of_all_speeds(self) -> float | None:
        """The sum of the elasticities of all speeds that vary; None if one of them is missing."""
        found = [self.elasticity(name) for name in SPEEDS if len(self.resources[name]) > 1]
        known = [each for each in found if each is not None]
        return sum(known) if known and len(known) == len(found) else None

    def parts(self) -> Iterator[str]:
        """The tables of TPOT, of TTFT if there is a prefill, and of the largest part of an iteration."""
        if self.base.get("tpot_s_mean") is not None:
            yield self._times("tpot", whole=True)
        if self.base.get("ttft_s_mean") is not None:
            yield self._times("ttft", whole=self.base.get("tpot_s_mean") is None)
        if self.is_done:
            yield self._largest()

    def notes(self) -> Iterator[str]:
        """Elasticities and columns that use other factors than usual."""
        for resource, rows in self.resources.items():
            if self.elasticity(resource) is None and self.elasticity(resource, "ttft") is None:
                continue
            done = [row["factor"] for row in rows if row["status"] == "done"]
            if sides(done) != NEIGHBOURS:
                below, above = sides(done)
                used = [factor_text(each) for each in (below, 1.0, above) if each is not None]
                yield f"{resource}: elasticity from {listed(used)}"
            rounded = [
                f"{row['count']} are {factor_text(row['factor'])}" for row in self._columns(rows) if _is_rounded(row)
            ]
            if rounded:
                yield f"{resource}: whole numbers only, so {', '.join(rounded)}"

    def _times(self, time: str, *, whole: bool) -> str:
        """A row per resource; the `whole` table also has amounts, and resources that the machine lacks."""
        shown = {name: own for name, own in self.resources.items() if whole or len(own) > 1}
        unit = time_unit(row.get(f"{time}_s_mean") for own in shown.values() for row in own)
        columns = [["at 1×", *(folded(str(own[0]["at_1x"]), AT_1X) for own in shown.values())]] * whole
        for factor in SHOWN:
            columns.append([factor_text(factor), *(_cell(_at(own, factor), time, unit) for own in shown.values())])
        columns.append(["elasticity", *(_elasticity(self.elasticity(name, time)) for name in shown)])
        first = ["resource", *shown]
        return f"{self.name}: {time.upper()}, mean {unit.name}\n" + "\n\n".join(wide_table(first, columns, WIDTH))

    def _largest(self) -> str:
        rows = []
        for name, own in self.resources.items():
            known = sorted((row["factor"], str(row["largest_part"])) for row in own if row.get("largest_part"))
            if len(known) > 1:
                found = [
                    f"{each.before} → {each.after}\nbetween {factor_text(each.low)} and {factor_text(each.high)}"
                    for each in changes(known)
                ]
                shares = [_share(_at(own, factor)) for factor in SHOWN]
                rows.append([name, *shares, "\n".join(found) or "none"])
        phase = "decode iteration" if self.base.get("decode_compute_s") is not None else "prefill"
        headers = ["resource", *map(factor_text, SHOWN), "changes"]
        return f"{self.name}: largest part of a mean {phase}, and its share\n{text_table(rows, headers, texts=6)}"

    def _columns(self, rows: Sequence[Row]) -> Iterator[Row]:
        return (row for factor in SHOWN if (row := _at(rows, factor)))


def _policies(frame: pd.DataFrame) -> Sequence[str]:
    return list(dict.fromkeys(map(str, frame["policy"])))


def _compared(tables: Sequence[_Tables]) -> str:
    """A row per resource, a column per policy."""
    resources = list(tables[0].resources)
    columns = [[each.name, *(_elasticity(each.elasticity(name)) for name in resources)] for each in tables]
    return "Elasticity of TPOT at 1×\n" + "\n\n".join(wide_table(["resource", *resources], columns, WIDTH))


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    yield ELASTICITY
    yield ALONE
    yield PARTS
    base = [row for row in rows if row["factor"] == 1 and row["status"] == "done"]
    yield from dict.fromkeys(filter(None, (cache_too_small(row) for row in base)))
    yield from footnotes((str(row["policy"]), row) for row in base)
    for note in dict.fromkeys(str(row["note"]) for row in base if row["note"]):
        policies = dict.fromkeys(str(row["policy"]) for row in base if row["note"] == note)
        yield f"{', '.join(policies)}: {note}"


def _checked(tables: Sequence[_Tables]) -> Iterator[str]:
    """The sum of the speeds' elasticities, and what it should be."""
    sums = {each.name: each.of_all_speeds for each in tables}
    terms = [f"{value:+.2f} for {name}" for name, value in sums.items() if value is not None]
    if terms:
        yield (
            f"The elasticities of the speeds ({', '.join(SPEEDS)}) add up to {', '.join(terms)}. Doubling every speed "
            "halves every time, so without estimation error they would add up to -1."
        )


def _at(rows: Sequence[Row], factor: float) -> Row | None:
    """The row of a resource at a factor, perhaps rounded; None if there is none."""
    quarter = math.log(2) / 4  # half the distance to the next factor
    near = [row for row in rows if abs(math.log(row["factor"] / factor)) < quarter]
    return min(near, key=lambda row: abs(math.log(row["factor"] / factor)), default=None)


def _is_rounded(row: Row) -> bool:
    return all(abs(row["factor"] / factor - 1) > 1e-9 for factor in SHOWN)


def _cell(row: Row | None, time: str, unit: Unit) -> str:
    return unit.text(row.get(f"{time}_s_mean")) if row else MISSING


def _share(row: Row | None) -> str:
    if not row or not row.get("largest_part"):
        return MISSING
    return f"{row['largest_part']} {row['largest_share']:.0%}"


def _elasticity(value: float | None) -> str:
    return "0" if value == 0 else number(value, "+.2f")
