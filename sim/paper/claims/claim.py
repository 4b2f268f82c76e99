"""Statements of the paper's text about its results, each with a function that computes our value."""

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
"""Explanations by verdict, or by footing and verdict, which takes precedence."""

Rule = Literal["number", "order", "range", "bound"]
Unit = Literal["share", "ms", "MB", "layers", "iterations", "experts", "parameters", "bits", ""]

BOTH: Final = "both"
"""The footing of values that come from routing alone and so depend on neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One statement of the paper, and how our value of it is computed.

    The rules that judge it are in `sim/paper/verdicts/judgement.py`.
    """

    key: str
    """Figure, quantity and what it is compared with: "10-ttft-deepspeed"."""
    figure: str
    """The key of its figure: "10", "14a", "table-1"."""
    says: str
    """The paper's statement in our words, including what a number averages over. Without vertical bars."""
    rule: Rule
    """number: our value is near `paper`. order: an order holds. range: a value lies between `low` and `high`. bound: a
    value respects the one of `low` and `high` that is given."""
    paper: float | None = None
    """The paper's number; a reduction of 74 % is -0.74."""
    unit: Unit = ""
    """Unit of the number or the limits. A number that is a share is a relative change, so its sign counts."""
    low: float | None = None
    high: float | None = None
    ours: Callable[[Tables], pd.DataFrame]
    """A row per footing and trace, with the columns footing ("even", "released", "both"), trace (its title), value and
    optionally detail (a text). The value of an order is 1 if it holds and 0 if not. NaN: cannot be judged on this
    trace, for example because two sides are equal by construction. `claim_values.py` has the usual functions."""
    needs: tuple[str, ...] = ()
    """The figures whose tables `ours` reads; empty: its own figure."""
    reasons: Reasons = field(default_factory=dict)
    """Explanations, each with the experiment that shows it, printed only beside their verdict. They were written for
    the full study of the twins. They end without a full stop and contain no numbers of runs, which the next run would
    change: `ours` computes such numbers as details."""
    reasons_are_general: bool = False
    """Whether the reasons hold for any routing, as those from closed forms do."""

    given: str = ""
    """Why the value follows from a model's shape or published configuration alone, so that no run can change it; "" if
    it does not. Such verdicts are counted separately, because they are no evidence for the simulator."""

    def __post_init__(self) -> None:
        limits = sum(limit is not None for limit in (self.low, self.high))
        if (self.paper is not None) != (self.rule == "number"):
            raise ValueError(f"{self.key}: `paper` must be given for a number, and only for a number")
        if limits != {"number": 0, "order": 0, "range": 2, "bound": 1}[self.rule]:
            raise ValueError(f"{self.key}: a range needs two limits, a bound one, other rules none")
        if any(text.endswith(".") for text in self.reasons.values()):
            raise ValueError(f"{self.key}: a reason must not end with a full stop, because the document adds one")

    @property
    def tables(self) -> tuple[str, ...]:
        """The keys of the tables that `ours` reads."""
        return self.needs or (self.figure,)

    def reason(self, footing: str, verdict: Verdict) -> str:
        """The explanation of this verdict on this footing; "" if there is none."""
        return self.reasons.get((footing, verdict), self.reasons.get(verdict, ""))


def figure_name(key: str) -> str:
    """The name of a figure, table or other part of the paper in a sentence: "figure 10", "table 1"."""
    return f"figure {key}" if key[0].isdigit() else key.replace("-", " ")
