"""The rules that turn values into a verdict, as code and, from the same constants, in words.

The tolerances were chosen before any value was computed, and no run was added or dropped because of a verdict.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from sim.paper.claims.claim import NOT_JUDGED, NOT_REPRODUCED, REPRODUCED, SAME_ORDER, Claim, Verdict

POINTS: Final = 0.05
"""Tolerance of a share. Neighbouring baselines of figure 10 lie 3 to 11 points apart, so a wider tolerance would
confuse them."""
RELATIVE: Final = 0.20
"""Tolerance of any other number, relative to the paper's."""
FACTOR: Final = 2.0
"""A number that is not a change has no sign; within this factor it is of the same order."""

UNEXPLAINED: Final = "no experiment explains it yet"
"""Printed where a verdict has no reason."""
ON_THE_TWINS: Final = "on the twins: "
"""Prefix of a reason in a study of other routing or fewer prompts, where it may not hold."""


class Judgement(NamedTuple):
    """The verdict on one claim on one footing."""

    verdict: Verdict
    mean: float
    """Mean over the traces; NaN if there are none."""
    holds: int
    """The number of traces in which the order, the limits or the sign of a number hold."""
    traces: int
    """The number of traces with a value."""

    @property
    def holds_in(self) -> str:
        """Such as "4 of 6"."""
        return f"{self.holds} of {self.traces}"


def judge(claim: Claim, values: Sequence[float]) -> Judgement:
    """The verdict on a claim from a value per trace, ignoring NaN."""
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
    """Whether one value agrees with the paper, apart from the size of a number."""
    if claim.rule == "order":
        return value == 1
    if claim.paper is None:
        return (claim.low is None or value >= claim.low) and (claim.high is None or value <= claim.high)
    if claim.unit == "share":
        return value * claim.paper > 0
    return claim.paper / FACTOR <= value <= claim.paper * FACTOR


def rules_in_words() -> list[str]:
    """The rules of `judge` in words, one item per kind of claim."""
    points, relative = f"{POINTS * 100:.0f} percentage points", f"{RELATIVE * 100:.0f} %"
    return [
        "Each trace gives a value. Ours is their unweighted mean, as the paper averages over models and data sets. "
        "*Most traces* means more than half of those with a value.",
        f"A **number** that is a share is a relative change, and its sign is its order. It is *{REPRODUCED}* if the "
        f"mean lies within {points} of the paper's and most traces have the paper's sign. It is *{SAME_ORDER}* if the "
        f"mean and most traces have the paper's sign. Otherwise it is *{NOT_REPRODUCED}*.",
        f"A **number** with another unit is *{REPRODUCED}* if the mean lies within {relative} of the paper's, and "
        f"*{SAME_ORDER}* if the mean lies within a factor of {FACTOR:.0f}; in both cases most traces must lie within "
        f"that factor. Otherwise it is *{NOT_REPRODUCED}*.",
        f"An **order**, a **range** (limits included) or a **bound** is *{REPRODUCED}* if it holds in every trace, "
        f"*{SAME_ORDER}* if it holds in most (`holds_in` in the CSV has the count), and otherwise *{NOT_REPRODUCED}*.",
        f"*{NOT_JUDGED.capitalize()}*: there is no value, because nothing was run for it or two sides are equal by "
        "construction.",
        "Reasons were written for the full study of the twins, and each is shown only beside its verdict. With other "
        f"routing or fewer prompts a reason begins with “{ON_THE_TWINS.strip()}”, because it may not hold there. A "
        f"verdict other than *{REPRODUCED}* without a reason says: {UNEXPLAINED}.",
    ]
