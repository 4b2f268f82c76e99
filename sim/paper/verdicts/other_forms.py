"""Judge claims with the other form of a baseline.

Three baselines have two forms (docs/systems.md), and one of them represents the baseline in claims. Here the two swap
places in the tables, one baseline at a time, and every claim is computed and judged as usual.
"""

from typing import NamedTuple

import pandas as pd

from sim.paper.claims.claim import NOT_JUDGED, Claim, Tables
from sim.paper.paper_systems import OTHER_FORMS, SYSTEMS, PaperSystem
from sim.paper.verdicts.judgement import Judgement, judge

_MAIN = {system.name: system.form for system in SYSTEMS}


class WithOtherForm(NamedTuple):
    """The judgement with the other form of one baseline."""

    form: PaperSystem
    judgement: Judgement


def exchanged(tables: Tables, other: PaperSystem) -> Tables:
    """The tables with this form and the baseline's main form swapped."""
    forms = {_MAIN[other.name]: other.form, other.form: _MAIN[other.name]}
    found = {}
    for key, table in tables.items():
        if {"system", "form"} <= set(table):
            own = table["system"] == other.name
            if own.any():
                table = table.assign(form=table["form"].mask(own, table["form"].replace(forms)))
        found[key] = table
    return found


def with_other_forms(claim: Claim, tables: Tables) -> dict[str, list[WithOtherForm]]:
    """By footing, the judgements with each form that changes a value of the claim and can be judged."""
    found: dict[str, list[WithOtherForm]] = {}
    there = _values(claim, tables)
    for other in OTHER_FORMS:
        swapped = exchanged(tables, other)
        if all(swapped[key] is tables[key] for key in claim.tables):
            continue
        values = _values(claim, swapped)
        for footing, own in values.groupby(level="footing", sort=False):
            judgement = judge(claim, own.tolist())
            if judgement.verdict != NOT_JUDGED and not own.equals(there[there.index.isin([footing], "footing")]):
                found.setdefault(str(footing), []).append(WithOtherForm(other, judgement))
    return found


def _values(claim: Claim, tables: Tables) -> "pd.Series[float]":
    """Ours by footing and trace."""
    values: pd.Series[float] = claim.ours(tables).set_index(["footing", "trace"])["value"].astype(float)
    return values
