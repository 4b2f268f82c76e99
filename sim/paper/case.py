"""A run that a figure needs, with the labels of its row in the figure's table."""

from collections.abc import Mapping
from dataclasses import dataclass

from sim.scenario import Scenario

Label = str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A scenario with labels."""

    labels: Mapping[str, Label]
    """By column: model, prompts, footing, system, …"""
    scenario: Scenario
