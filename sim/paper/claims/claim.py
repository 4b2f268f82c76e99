"""What the paper's text says of its results, each statement with a function that finds our value of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import pandas as pd

Tables: TypeAlias = Mapping[str, pd.DataFrame]
"""The tidy table of each figure, by the figure's key."""

Verdict = Literal["reproduced", "same order, other size", "not reproduced", "cannot be judged here"]
REPRODUCED: Final = "reproduced"
SAME_ORDER: Final = "same order, other size"
NOT_REPRODUCED: Final = "not reproduced"
NOT_JUDGED: Final = "cannot be judged here"
VERDICTS: Final[tuple[Verdict, ...]] = (REPRODUCED, SAME_ORDER, NOT_REPRODUCED, NOT_JUDGED)

Reasons: TypeAlias = Mapping[Verdict | tuple[str, Verdict], str]
"""Why a verdict came out, by verdict, or by footing and verdict, which goes first."""

Rule = Literal["number", "order", "range", "bound"]
Unit = Literal["share", "ms", "MB", "layers", "iterations", "experts", "parameters", "bits", ""]

BOTH: Final = "both"
"""The footing of a value that depends on neither: taken from routing alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One statement of the paper, and where our value of it comes from.

    The rules that judge it are in `sim/paper/verdicts/judgement.py`.
    """

    key: str
    """Figure, quantity and what it is compared with: "10-ttft-deepspeed"."""
    figure: str
    """The key of its figure: "10", "14a", "table-1"."""
    says: str
    """The paper's statement in our words, with what a number is a mean over. No vertical bar."""
    rule: Rule
    """number: `paper` is met. order: an order holds. range: a value lies between `low` and `high`. bound: one of the
    two limits it."""
    paper: float | None = None
    """The paper's number; a reduction of 74 % is -0.74."""
    unit: Unit = ""
    """Of the number or the limits. A number that is a share is a change against something else: its sign counts."""
    low: float | None = None
    high: float | None = None
    ours: Callable[[Tables], pd.DataFrame]
    """Columns footing ("even", "released", "both"), trace (its title), value, and perhaps detail, a text: a row per
    footing and trace. A value of an order is 1 where it holds and 0 where it does not. NaN: cannot be judged on this
    trace, as where two sides are equal by construction. `sim/paper/claims/claim_values.py` has the usual ones."""
    needs: tuple[str, ...] = ()
    """The figures whose tables `ours` reads; none stands for its own figure."""
    reasons: Reasons = field(default_factory=dict)
    """Each with the experiment that shows it, and shown only beside its verdict. Written for the full study of the
    twins. No full stop at the end, and no number of a single run, which the next run would make false: `ours` computes
    those as details."""
    reasons_are_general: bool = False
    """Whether the reasons hold for any routing, as those from closed forms do."""

    given: str = ""
    """Why the value follows from a model's shape or published configuration alone, so that no run could change it; ""
    if it does not. Such verdicts are counted apart: they are no evidence for the simulator."""

    def __post_init__(self) -> None:
        limits = sum(limit is not None for limit in (self.low, self.high))
        if (self.paper is not None) != (self.rule == "number"):
            raise ValueError(f"{self.key}: a number, and nothing else, has the paper's number")
        if limits != {"number": 0, "order": 0, "range": 2, "bound": 1}[self.rule]:
            raise ValueError(f"{self.key}: a range has two limits, a bound one of them, the others none")
        if any(text.endswith(".") for text in self.reasons.values()):
            raise ValueError(f"{self.key}: a reason ends without a full stop, which the document adds")

    @property
    def tables(self) -> tuple[str, ...]:
        """The keys of the tables that `ours` reads."""
        return self.needs or (self.figure,)

    def reason(self, footing: str, verdict: Verdict) -> str:
        """Why this verdict came out on this footing; "" if nothing here explains it."""
        return self.reasons.get((footing, verdict), self.reasons.get(verdict, ""))


def figure_name(key: str) -> str:
    """What to call a figure, a table or another part of the paper in a sentence: "figure 10", "table 1"."""
    return f"figure {key}" if key[0].isdigit() else key.replace("-", " ")
