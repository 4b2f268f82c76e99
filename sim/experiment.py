"""An experiment: a base scenario, and the axes along which it varies.

    [scenario]
    trace = "pocket.trace"
    cache.gb = 6.0

    [grid]                                   # every combination of the values
    policy = ["finemoe", "lru"]
    seed = [0, 1, 2]
    "policy.prefetch_distance" = [1, 3]      # for policies with this setting

    [zip]                                    # the first values together, the second ones, …
    machine = ["rtx3090", "a100-80gb"]
    cache.share = [0.25, 0.75]

    [[list]]                                 # one point after the other
    batch_size = 1
    [[list]]
    batch_size = 4
    requests = 8

The matrix is the product of all tables. Paths are relative to the current folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

from common.errors import FieldError, UserError, nearest
from common.settings import from_data, to_data
from common.toml_files import read_toml, write_toml
from sim.axes import SETTING, Point, Value, applied, check_axis, check_value, flattened, in_text
from sim.scenario import Scenario

FieldPath = tuple[str, ...]  # such as ("cache", "gb")
Axes: TypeAlias = Mapping[str, Sequence[Value]]
"""The values that each axis takes, by its dotted name."""

TABLES = ("scenario", "grid", "zip", "list")
MOST_RUNS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One combination of the values of all axes."""

    point: Point
    """The values on the axes that apply to the run."""
    scenario: Scenario | None
    """The scenario to run; None if it is impossible."""
    problem: str | None = None
    """Why it is impossible."""

    def value(self, axis: str) -> Any:
        """The value on an axis, from the point or else from the scenario.

        None for a setting that the policy lacks, and for a figure of the machine that the point does not set.
        """
        if axis in self.point or in_text(axis) or self.scenario is None:
            return self.point.get(axis)
        value: Any = self.scenario
        for part in axis.split("."):
            value = getattr(value, part)
        return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A base scenario, and the axes along which it varies."""

    scenario: Scenario
    """The base scenario; with an axis of policies, its policy is the first of them."""
    grid: Axes = field(default_factory=dict)
    """Axes of which every combination is used."""
    zip: Axes | Sequence[Axes] = ()
    """Axes with equally many values that vary together; several such tables are combined."""
    list: Sequence[Point] = ()
    """Single points, one after another."""

    def __post_init__(self) -> None:
        zips = (self.zip,) if isinstance(self.zip, Mapping) else _sequence(self.zip, "zip")
        object.__setattr__(self, "grid", _axes(self.grid, "grid"))
        object.__setattr__(self, "zip", tuple(_zipped(each) for each in zips))
        object.__setattr__(self, "list", tuple(map(_point, _sequence(self.list, "list"))))
        self._check_axes()
        policies = self._policies()
        if self.scenario.label and len(set(policies)) > 1:
            raise FieldError("scenario.label", f"{self.scenario.label!r} cannot name several policies")
        if policies:
            object.__setattr__(self, "scenario", replace(self.scenario, policy=policies[0]))

    @property
    def axes(self) -> tuple[str, ...]:
        """The dotted names of the axes, in the order of the tables."""
        return tuple(dict.fromkeys(name for factor in self._factors() for point in factor for name in point))

    @classmethod
    def read(cls, path: Path | str) -> "Experiment":
        """Read an experiment from a TOML file. A mistake in it raises a `UserError` that names file and field."""
        return read_experiment(Path(path), {})

    def write(self, path: Path | str) -> None:
        """Write every field that has a value into a TOML file, replacing an existing one."""
        write_toml(Path(path), {name: table for name, table in self.to_data().items() if table})

    def to_data(self) -> dict[str, Any]:
        """The tables of the experiment's file, as plain data."""
        scenario = to_data(self.scenario)
        if "policy" in self.axes:  # the axis already has it
            del scenario["policy"]
        return {
            "scenario": scenario,
            "grid": {name: [*values] for name, values in self.grid.items()},
            "zip": [{name: [*values] for name, values in table.items()} for table in self._zips()],
            "list": [dict(point) for point in self.list],
        }

    def matrix(self) -> Sequence[Run]:
        """Every run once, with the last axis varying fastest; an impossible scenario is a run with a problem."""
        count = prod(map(len, self._factors()))
        if count > MOST_RUNS:
            raise UserError(f"the axes have {count:,} combinations; a sweep has at most {MOST_RUNS:,}")
        runs: dict[tuple[Any, ...], Run] = {}
        for points in product(*self._factors()):
            point = {name: value for each in points for name, value in each.items()}
            try:
                scenario, used = applied(self.scenario, point)
            except UserError as error:
                run = Run(point=point, scenario=None, problem=str(error))
            else:
                run = Run(point=used, scenario=scenario)
            runs.setdefault(tuple((name, type(value), value) for name, value in run.point.items()), run)
        return tuple(runs.values())

    def scenarios(self) -> Sequence[Scenario]:
        """A scenario for each policy. Raises a `UserError` if anything but the policy varies."""
        for name in self.axes:
            if name != "policy" and not name.startswith(SETTING):
                raise UserError(f"axis {name}: a comparison varies only the policy; use `finemoe sim sweep`")
        runs = self.matrix()
        for run in runs:
            if run.problem:
                raise UserError(run.problem)
        return tuple(dict.fromkeys(run.scenario for run in runs if run.scenario))

    def _zips(self) -> Sequence[Axes]:
        return self.zip  # type: ignore[return-value]  # a tuple of tables since init

    def _factors(self) -> Sequence[Sequence[Point]]:
        """The factors of the matrix, each a sequence of points."""
        grid = [[{name: value} for value in values] for name, values in self.grid.items()]
        zips = [
            [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)] for table in self._zips()
        ]
        return [*grid, *zips, *([self.list] if self.list else [])]

    def _policies(self) -> Sequence[str]:
        return [str(point["policy"]) for factor in self._factors() for point in factor if "policy" in point]

    def _check_axes(self) -> None:
        """Check that every axis is known and is in one table only."""
        policies = self._policies() or [self.scenario.policy]
        tables = [("grid", name) for name in self.grid]
        tables += [("zip", name) for table in self._zips() for name in table]
        tables += [("list", name) for name in dict.fromkeys(name for point in self.list for name in point)]
        names = [name for _, name in tables]
        for table, name in tables:
            check_axis(name, f"{table}.{name}", policies)
            if names.count(name) > 1:
                raise FieldError(f"{table}.{name}", "is listed as an axis more than once")


def read_experiment(file: Path | None, given: Mapping[FieldPath, Any]) -> Experiment:
    """Read the experiment in a file; `given` values, by the path of their field, replace those of the file.

    For the policy, `given` has a list. A mistake in `given` raises a `FieldError`, one in the file a `UserError` that
    names the file.
    """
    data = read_toml(file) if file else {}
    scenario, grid = (_table(file, data, name) for name in ("scenario", "grid"))
    if "policy" in scenario and "policy" in grid:
        raise UserError(f"{file}: scenario.policy and grid.policy: give only one of them")
    scenario |= {outer: {} for outer, *inner in given if inner}  # a given cache size replaces the file's
    for (outer, *inner), value in given.items():
        if outer == "policy":
            scenario.pop("policy", None)
            grid["policy"] = value
        elif inner:
            scenario[outer][inner[0]] = value
        else:
            scenario[outer] = value
    if isinstance(policies := grid.get("policy"), list | tuple) and len(policies) == 1:
        (scenario["policy"],) = grid.pop("policy")
    try:
        for name in data:
            if name not in TABLES:
                raise FieldError(name, f"is not a setting; {nearest(name, TABLES)}")
        return Experiment(**{**data, "scenario": _scenario(scenario), "grid": grid})
    except FieldError as error:
        named = error.field.removeprefix("scenario.").removeprefix("grid.")
        if file and named.partition(".")[0] not in {outer for outer, *_ in given}:
            raise UserError(f"{file}: {error}") from None
        raise FieldError(named, error.problem) from None


def _table(file: Path | None, data: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise UserError(f"{file}: {name}: must be a table, not {table!r}")
    return dict(table)


def _scenario(data: Any) -> Scenario:
    try:
        return from_data(Scenario, data)
    except FieldError as error:
        raise error.inside("scenario") from None


def _sequence(value: Any, field: str) -> Sequence[Any]:
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise FieldError(field, f"must be a list of tables, not {value!r}")
    return value


def _axes(table: Any, field: str) -> dict[str, tuple[Value, ...]]:
    """The values of each axis of a table, checked."""
    axes = {}
    for name, values in flattened(table, field).items():
        where = f"{field}.{name}"
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            raise FieldError(where, f"must be a list, not {values!r}")
        axes[name] = tuple(check_value(value, where) for value in values)
        if not axes[name]:
            raise FieldError(where, "is empty; an axis has at least one value")
    return axes


def _zipped(table: Any) -> dict[str, tuple[Value, ...]]:
    axes = _axes(table, "zip")
    for name, values in axes.items():
        first = next(iter(axes))
        if len(values) != len(axes[first]):
            raise FieldError(f"zip.{name}", f"has {len(values)} values, zip.{first} has {len(axes[first])}")
    return axes


def _point(table: Any) -> Point:
    return {name: check_value(value, f"list.{name}") for name, value in flattened(table, "list").items()}
