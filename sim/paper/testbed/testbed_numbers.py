"""The paper's numbers that a testbed must explain: reductions of TTFT and TPOT, and gains in hit rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sim.paper.figures.figure_10 import HIT_RATE, TIMES
from sim.paper.figures.figure_12 import TPOT_6_GB

Quantity = Literal["ttft", "tpot", "hit"]

FIGURE_12_GB = 6.0
_NAMES: Mapping[Quantity, str] = {"ttft": "TTFT", "tpot": "TPOT", "hit": "hit rate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNumber:
    """FineMoE's change against a baseline, as a mean over models and data sets."""

    figure: Literal["10", "12"]
    quantity: Quantity
    baseline: str
    change: float
    """As a share of the baseline's value: -0.74 is 74 % less."""

    @property
    def key(self) -> str:
        """The key of its claim: `10-ttft-deepspeed`."""
        return f"{self.figure}-{self.quantity}-{self.baseline.lower()}"

    @property
    def title(self) -> str:
        """Quantity and baseline."""
        return f"{_NAMES[self.quantity]} vs. {self.baseline}"

    @property
    def group(self) -> str:
        """Figure and quantity."""
        return f"fig. {self.figure}: {_NAMES[self.quantity]}"


def _numbers(figure: Literal["10", "12"], quantity: Quantity, changes: Mapping[str, float]) -> list[PublishedNumber]:
    return [
        PublishedNumber(figure=figure, quantity=quantity, baseline=baseline, change=change)
        for baseline, change in changes.items()
    ]


NUMBERS: Sequence[PublishedNumber] = (
    *_numbers("10", "ttft", TIMES["ttft"]),
    *_numbers("10", "tpot", TIMES["tpot"]),
    *_numbers("10", "hit", HIT_RATE),
    *_numbers("12", "tpot", TPOT_6_GB),
)
BY_KEY: Mapping[str, PublishedNumber] = {number.key: number for number in NUMBERS}


def groups() -> dict[str, list[str]]:
    """The keys of the numbers by figure and quantity, and all of them."""
    found: dict[str, list[str]] = {}
    for number in NUMBERS:
        found.setdefault(number.group, []).append(number.key)
    return {**found, "all": list(BY_KEY)}
