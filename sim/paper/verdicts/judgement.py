"""The rules by which values become a verdict, as code and, from the same constants, in words.

The tolerances were chosen before any value was computed, and no run was made or left out because of a verdict.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from sim.paper.claims.claim import NOT_JUDGED, NOT_REPRODUCED, REPRODUCED, SAME_ORDER, Claim, Verdict

POINTS: Final = 0.05
"""A share is reproduced within so much of the paper's. Neighbouring baselines of figure 10 lie 3 to 11 points apart; a
wider tolerance would mix them up."""
RELATIVE: Final = 0.20
"""Any other number is reproduced within so much of the paper's, a share of it."""
FACTOR: Final = 2.0
"""A number that is no change has no sign. It is of the same order within this factor."""

UNEXPLAINED: Final = "no experiment here explains it yet"
"""The reason of a verdict that has none."""
ON_THE_TWINS: Final = "on the twins: "
"""Before a reason in a study of other routing, or of fewer prompts: it may not be the reason there."""


class Judgement(NamedTuple):
    """What the rules say of one claim on one footing."""

    verdict: Verdict
    mean: float
    """Over the traces; NaN without any."""
    holds: int
    """In how many traces the order, the limits, or the sign of a number hold."""
    traces: int
    """How many have a value."""

    @property
    def holds_in(self) -> str:
        """Such as "4 of 6"."""
        return f"{self.holds} of {self.traces}"


def judge(claim: Claim, values: Sequence[float]) -> Judgement:
    """The verdict on a claim from a value per trace; those that are NaN do not count."""
    there = [value for value in values if not math.isnan(value)]
    if not there:
        return Judgement(NOT_JUDGED, math.nan, 0, 0)
    mean = sum(there) / len(there)
    holds = sum(_holds(claim, value) for value in there)
    return Judgement(_verdict(claim, mean, holds, len(there)), mean, holds, len(there))


def _verdict(claim: Claim, mean: float, holds: int, traces: int) -> Verdict:
    most = 2 * holds > traces
    if claim.paper is None:
        return REPRODUCED if holds == traces else SAME_ORDER if most else NOT_REPRODUCED
    if not (most and _holds(claim, mean)):
        return NOT_REPRODUCED
    tolerance = POINTS if claim.unit == "share" else RELATIVE * abs(claim.paper)
    return REPRODUCED if abs(mean - claim.paper) <= tolerance else SAME_ORDER


def _holds(claim: Claim, value: float) -> bool:
    """Whether one value agrees with the paper, but for the size of a number."""
    if claim.rule == "order":
        return value == 1
    if claim.paper is None:
        return (claim.low is None or value >= claim.low) and (claim.high is None or value <= claim.high)
    if claim.unit == "share":
        return value * claim.paper > 0
    return claim.paper / FACTOR <= value <= claim.paper * FACTOR


def rules_in_words() -> list[str]:
    """What `judge` does, an item per kind of claim."""
    points, relative = f"{POINTS * 100:.0f} percentage points", f"{RELATIVE * 100:.0f} %"
    return [
        "A value per trace comes first; ours is their plain mean, as the paper averages over models and data sets. "
        "*Most traces* are more than half of those that have a value.",
        f"A **number** that is a share is a change, and its sign is its order. It is *{REPRODUCED}* if the mean lies "
        f"within {points} of the paper's and the sign is the paper's in most traces; *{SAME_ORDER}* if the sign is the "
        f"paper's in the mean and in most traces; else *{NOT_REPRODUCED}*.",
        f"A **number** with another unit is *{REPRODUCED}* if the mean lies within {relative} of the paper's, and "
        f"*{SAME_ORDER}* if it lies within a factor of {FACTOR:.0f}, in most traces as well; else *{NOT_REPRODUCED}*.",
        f"An **order**, a **range** (limits included) or a **bound** is *{REPRODUCED}* if it holds in every trace, "
        f"*{SAME_ORDER}* if it holds in most (`holds_in` in the CSV has the count), else *{NOT_REPRODUCED}*.",
        f"*{NOT_JUDGED.capitalize()}*: there is no value, as nothing was run for it, or two sides are equal by "
        "construction.",
        "A reason was written for a verdict of the full study of the twins and is shown only beside that verdict. With "
        f"other routing or fewer prompts it begins with “{ON_THE_TWINS.strip()}”, as it may not hold there. A verdict "
        f"other than *{REPRODUCED}* that nobody has explained says: {UNEXPLAINED}.",
    ]
