"""An experiment: a base scenario and an axis of policies, to be run on even terms and compared.

A file of it is what sweeps read: the base scenario, and the values that each axis takes. Paths count from the current
folder.

    [scenario]
    trace = "pocket.trace"
    cache.gb = 6.0

    [grid]
    policy = ["finemoe", "lru"]
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import FieldError, UserError
from common.settings import check, from_data, to_data
from common.toml_files import read_toml, write_toml
from sim.scenario import Scenario

FieldPath = tuple[str, ...]  # ("cache", "gb") for the gigabytes of the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The axes: every combination of their values is a scenario."""

    policy: tuple[str, ...] = ()
    """Policies, in place of the scenario's."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A base scenario, and the axes along which it varies."""

    scenario: Scenario
    """The base; of an axis it has the first value."""
    grid: Grid = Grid()

    def __post_init__(self) -> None:
        check(self)
        if self.scenario.label and len(set(self.grid.policy)) > 1:
            raise FieldError("scenario.label", f"cannot name several policies, value {self.scenario.label}")
        if self.grid.policy:
            object.__setattr__(self, "scenario", replace(self.scenario, policy=self.grid.policy[0]))

    @classmethod
    def read(cls, path: Path | str) -> "Experiment":
        """What a TOML file describes; a mistake in it is a `UserError` that names file and field."""
        return read_experiment(Path(path), {})

    def write(self, path: Path | str) -> None:
        """Put the experiment into a TOML file, in place of one that is there: every field that has a value."""
        data = to_data(self)
        del data["scenario" if self.grid.policy else "grid"]["policy"]  # said once
        write_toml(Path(path), {name: table for name, table in data.items() if table})

    def scenarios(self) -> list[Scenario]:
        """One for each policy, in the order given; a policy that is named twice runs once."""
        policies = dict.fromkeys(self.grid.policy or (self.scenario.policy,))
        return [replace(self.scenario, policy=policy) for policy in policies]


def read_experiment(file: Path | None, given: Mapping[FieldPath, Any]) -> Experiment:
    """The experiment in a file, with the values that were `given`, by the path of their field, in place of its own.

    Of policies, a list is given. A mistake in what was given is a `FieldError`; one in the file is a `UserError` that
    names the file.
    """
    data = read_toml(file) if file else {}
    scenario, grid = (_table(file, data, name) for name in ("scenario", "grid"))
    if "policy" in scenario and "policy" in grid:
        raise UserError(f"{file}: scenario.policy and grid.policy: give one of them")
    scenario |= {outer: {} for outer, *inner in given if inner}  # one size in place of another
    for (outer, *inner), value in given.items():
        if outer == "policy":
            scenario.pop("policy", None)
            grid["policy"] = value
        elif inner:
            scenario[outer][inner[0]] = value
        else:
            scenario[outer] = value
    if len(policies := grid.get("policy", ())) == 1 and not isinstance(policies, str):
        (scenario["policy"],) = grid.pop("policy")
    try:
        return from_data(Experiment, {**data, "scenario": scenario, "grid": grid})
    except FieldError as error:
        field = error.field.removeprefix("scenario.").removeprefix("grid.")
        if file and field.partition(".")[0] not in {outer for outer, *_ in given}:
            raise UserError(f"{file}: {error}") from None
        raise FieldError(field, error.problem) from None


def _table(file: Path | None, data: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise UserError(f"{file}: {name}: must be a table, value {table!r}")
    return dict(table)
