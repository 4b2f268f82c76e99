"""An experiment: a base scenario and an axis of policies, to be run on even terms and compared.

A file of it is what sweeps read: the base scenario, and the values that each axis takes.

    [scenario]
    trace = "pocket.trace"
    cache.gb = 6.0

    [grid]
    policy = ["finemoe", "lru"]
"""

from dataclasses import dataclass, replace
from pathlib import Path

from common.settings import check, to_data
from common.toml_files import write_toml
from sim.scenario import Scenario


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
    grid: Grid = Grid()

    def __post_init__(self) -> None:
        check(self)

    def scenarios(self) -> list[Scenario]:
        """One for each policy, in the order given; a policy that is named twice runs once."""
        policies = dict.fromkeys(self.grid.policy or (self.scenario.policy,))
        return [replace(self.scenario, policy=policy) for policy in policies]

    def write(self, path: Path) -> None:
        """Put the experiment into a TOML file, in place of one that is there; defaults are left out."""
        write_toml(path, to_data(self, defaults=False))
