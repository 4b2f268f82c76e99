"""The paper's statements without a table here: its headline, and the figure that is not drawn."""

from collections.abc import Callable, Sequence

import pandas as pd

from sim.paper.claims.claim import NOT_JUDGED, SAME_ORDER, Claim, Reasons, Tables
from sim.paper.claims.claim_values import COLUMNS, nothing
from sim.paper.footings import EVEN, RELEASED

ABOUT = {
    "headline": "The two numbers of the abstract.",
    "11": "Distribution of request latencies, online. Not drawn here.",
}
"""A description of each section, by `Claim.figure`."""
_TTFT = "TPOT falls by more than in the paper, on average, and TTFT by less (figure 10)"


def general_claims(of_figures: Sequence[Claim]) -> list[Claim]:
    """The headline, computed from the claims of figure 10, and a statement that needs online serving."""
    return [
        _headline(
            "headline-latency",
            -0.47,
            "FineMoE cuts latency by 47 % (here: the mean of figure 10's reductions of TTFT and TPOT; the paper's own "
            "figure-10 numbers average −47.9 %)",
            _of(of_figures, "10-ttft-", "10-tpot-"),
            {
                (EVEN.name, SAME_ORDER): f"{_TTFT}: on this footing, even Clairvoyant, which knows every demand, "
                "does not reach the paper's reductions of TTFT",
                (RELEASED.name, SAME_ORDER): f"{_TTFT}, against ProMoE and MoE-Infinity: the reasons are at "
                "10-ttft-promoe and 10-ttft-moe-infinity",
            },
        ),
        _headline(
            "headline-hit",
            0.39,
            "FineMoE raises the hit rate by 39 % (here: the mean of figure 10's gains; the paper's own figure-10 "
            "numbers average +39.7 %)",
            _of(of_figures, "10-hit-"),
            {
                SAME_ORDER: "Each of the three gains is below the paper's, and against Mixtral-Offloading the hit rate "
                "falls: the reasons are at 10-hit-mixtral-offloading, 10-hit-promoe and 10-hit-moe-infinity"
            },
        ),
        Claim(
            key="11-latency-leftmost",
            figure="11",
            says="FineMoE's distribution of request latencies is the leftmost for all three models",
            rule="order",
            ours=lambda tables: nothing(),
            needs=(),
            reasons={NOT_JUDGED: "requests run in fixed batches here; online serving is a later step"},
            reasons_are_general=True,
        ),
    ]


def _of(claims: Sequence[Claim], *starts: str) -> list[Claim]:
    return [claim for claim in claims if claim.rule == "number" and claim.key.startswith(starts)]


def _headline(key: str, paper: float, says: str, parts: Sequence[Claim], reasons: Reasons) -> Claim:
    return Claim(
        key=key,
        figure="headline",
        says=says,
        rule="number",
        paper=paper,
        unit="share",
        ours=_mean_of([part.ours for part in parts]),
        needs=tuple(dict.fromkeys(table for part in parts for table in part.tables)),
        reasons=reasons,
    )


def _mean_of(parts: Sequence[Callable[[Tables], pd.DataFrame]]) -> Callable[[Tables], pd.DataFrame]:
    """The mean of several values on each footing and trace; NaN if one is missing, since other means do not compare."""

    def ours(tables: Tables) -> pd.DataFrame:
        values = pd.concat([part(tables)[["footing", "trace", "value"]] for part in parts], ignore_index=True)
        means = values.groupby(["footing", "trace"], sort=False)["value"].agg(lambda each: each.mean(skipna=False))
        return means.reset_index().assign(detail="")[COLUMNS]

    return ours
