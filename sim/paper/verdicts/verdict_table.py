"""The CSV file of verdicts: a row per claim and footing with the paper's value, ours per trace, verdict and reason."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.files import replacing
from sim.paper.claims.claim import BOTH, NOT_JUDGED, REPRODUCED, Claim, Tables, Verdict, figure_name
from sim.paper.footings import FOOTINGS
from sim.paper.verdicts.judgement import ON_THE_TWINS, UNEXPLAINED, Judgement, judge
from sim.paper.verdicts.other_forms import WithOtherForm, with_other_forms
from sim.paper.verdicts.verdict_cells import ours

OURS = "ours: "
"""Prefix of a column with the values of one trace."""
_FIRST = ("claim", "figure", "says", "rule", "paper", "low", "high", "unit", "footing", "ours")
_LAST = ("holds_in", "verdict", "given", "reason", "detail")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedClaim:
    """A claim on one footing."""

    claim: Claim
    footing: str
    """even, released, or both if the claim does not depend on the footing."""
    values: dict[str, float]
    """Our values by the title of the trace; NaN: cannot be judged."""
    judgement: Judgement
    reason: str
    """Empty only if the claim is reproduced."""
    detail: str
    """Further facts on our value, such as another reading of the paper's number."""
    other_forms: Sequence[WithOtherForm] = ()
    """The judgements with the other form of a baseline, where that changes a value."""

    @property
    def verdict(self) -> Verdict:
        """The verdict."""
        return self.judgement.verdict

    @property
    def unexplained(self) -> bool:
        """Whether it is not reproduced and has no reason."""
        return self.reason == UNEXPLAINED

    def cells(self, traces: Sequence[str]) -> list[object]:
        """Its row of the file; missing values are empty cells."""
        claim, mean = self.claim, self.judgement.mean
        limits = [claim.paper, claim.low, claim.high]
        return [
            *(claim.key, claim.figure, claim.says, claim.rule, *limits, claim.unit, self.footing, _number(mean)),
            *(_number(self.values.get(trace, math.nan)) for trace in traces),
            *(self.judgement.holds_in, self.verdict, self.claim.given, self.reason, self.detail),
        ]


def judged(claims: Sequence[Claim], tables: Tables, *, full_twins: bool = False) -> list[JudgedClaim]:
    """Every claim on each footing, in order.

    `full_twins`: whether the tables come from the full study of the twins, for which reasons were written. If not, each
    reason says that it belongs to the twins.
    """
    return [row for claim in claims for row in _judged(claim, tables, full_twins)]


def titles_of(rows: Sequence[JudgedClaim]) -> list[str]:
    """The titles of traces with a value, in order of appearance."""
    return list(dict.fromkeys(title for row in rows for title in row.values))


def write_rows(path: Path, rows: Sequence[JudgedClaim]) -> None:
    """Write the rows as CSV, with all digits, so that anyone can recompute the verdicts."""
    traces = titles_of(rows)
    with replacing(path, "the verdicts") as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_FIRST, *(OURS + trace for trace in traces), *_LAST])
        writer.writerows(row.cells(traces) for row in rows)


def _judged(claim: Claim, tables: Tables, full_twins: bool) -> Iterator[JudgedClaim]:
    lacking = [key for key in claim.tables if key not in tables]
    found = claim.ours(tables) if not lacking else pd.DataFrame({"footing": []})
    other_forms = with_other_forms(claim, tables) if len(found) else {}
    there = list(dict.fromkeys(found["footing"]))
    for footing in [BOTH] if there in ([], [BOTH]) else [each.name for each in FOOTINGS]:
        own = found[found["footing"] == footing]
        values = {} if own.empty else dict(zip(own["trace"], map(float, own["value"]), strict=True))
        if len(values) < len(own):
            raise ValueError(f"{claim.key}: two values on one trace and footing")
        judgement = judge(claim, list(values.values()))
        forms = other_forms.get(footing, [])
        detail = ". ".join(filter(None, [_detail(own), _with_other_forms(claim, forms)]))
        reason = _reason(claim, footing, judgement.verdict, lacking, full_twins)
        if reason == UNEXPLAINED and judgement.verdict == NOT_JUDGED and detail:
            reason, detail = detail, ""  # the detail says why there is no value
        yield JudgedClaim(
            claim=claim,
            footing=footing,
            values=values,
            judgement=judgement,
            reason=reason,
            detail=detail,
            other_forms=forms,
        )


def _reason(claim: Claim, footing: str, verdict: Verdict, lacking: Sequence[str], full_twins: bool) -> str:
    own = claim.reason(footing, verdict)
    if lacking and not (own and verdict == NOT_JUDGED):
        return f"needs the values of {', '.join(map(figure_name, lacking))}, which were not made"
    if own and not (full_twins or claim.reasons_are_general):
        return ON_THE_TWINS + own
    return own or ("" if verdict == REPRODUCED else UNEXPLAINED)


def _detail(own: pd.DataFrame) -> str:
    """The details of our values, with the titles of traces if details differ between them."""
    traces_by_detail: dict[str, list[str]] = {}
    if "detail" in own:
        for trace, detail in zip(own["trace"], own["detail"], strict=True):
            if detail:
                traces_by_detail.setdefault(str(detail), []).append(trace)
    return ". ".join(
        f"{' / '.join(traces)}: {each}" if len(traces_by_detail) > 1 else each
        for each, traces in traces_by_detail.items()
    )


def _with_other_forms(claim: Claim, forms: Sequence[WithOtherForm]) -> str:
    """Our value and the verdict with each: "with ProMoE (lookahead) +8.0 % (1 of 3), not reproduced"."""
    return "; ".join(f"with {form.title} {ours(claim, judged)}, {judged.verdict}" for form, judged in forms)


def _number(value: float) -> float | str:
    return "" if math.isnan(value) else value
