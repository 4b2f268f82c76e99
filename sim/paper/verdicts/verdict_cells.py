"""Format numbers, limits and verdicts for tables."""

import math

from common.tables import MISSING, number
from sim.paper.claims.claim import NOT_JUDGED, NOT_REPRODUCED, REPRODUCED, SAME_ORDER, Claim, Verdict
from sim.paper.verdicts.judgement import Judgement

MARKS: dict[Verdict, str] = {REPRODUCED: "✓", SAME_ORDER: "≈", NOT_REPRODUCED: "✗", NOT_JUDGED: "?"}

_GIVEN = ".4g"  # shows the paper's percentages with all their digits


def marked(verdict: Verdict) -> str:
    """A verdict with its mark."""
    return f"{MARKS[verdict]} {verdict}"


def papers(claim: Claim) -> str:
    """The paper's value or limits."""
    if claim.paper is not None:
        return amount(claim, claim.paper, form=_GIVEN)
    low, high = (None if limit is None else amount(claim, limit, form=_GIVEN) for limit in (claim.low, claim.high))
    if low and high:
        return f"{low} to {high}"
    return f"at least {low}" if low else f"at most {high}" if high else claim.rule


def ours(claim: Claim, judgement: Judgement) -> str:
    """Our mean, and in brackets the number of traces in which the sign, limits or order hold."""
    if not judgement.traces:
        return MISSING
    if claim.rule == "order":
        return judgement.holds_in
    return f"{amount(claim, judgement.mean)} ({judgement.holds_in})"


def value(claim: Claim, found: float) -> str:
    """Our value on one trace; for an order, whether it holds."""
    if claim.rule == "order" and not math.isnan(found):
        return "yes" if found == 1 else "no"
    return amount(claim, found)


def amount(claim: Claim, value: float, *, form: str = ".1f") -> str:
    """A value in the claim's unit: a change with its sign in %, parameters in billions, others with three digits."""
    if math.isnan(value):
        return MISSING
    if claim.unit == "share":
        text = number(value, f"{'+' if claim.rule == 'number' else ''}{form}", 100, unit=" %")
    elif claim.unit == "parameters":
        text = f"{value / 1e9:.1f} B"
    else:
        text = f"{value:.3g} {claim.unit}".rstrip()
    return text.replace("-", "−")
