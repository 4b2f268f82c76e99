"""Verdicts with the other form of a baseline, from tables made by hand."""

from pathlib import Path

import pandas as pd
import pytest

from sim.paper.claims.claim import NOT_REPRODUCED, SAME_ORDER, Claim
from sim.paper.figures.figure_10 import Figure10
from sim.paper.figures.lineup import main_forms, reductions
from sim.paper.paper_systems import OTHER_FORMS, SYSTEMS
from sim.paper.verdicts.other_forms import exchanged, with_other_forms
from sim.paper.verdicts.paper_vs_ours import FILES, write_claims
from sim.paper.verdicts.verdict_table import judged

TPOT_MS = {"FineMoE": 50.0, "MoE-Infinity (paper)": 100.0, "MoE-Infinity (code)": 40.0, "ProMoE (learned)": 80.0}
TPOT_MS |= {"ProMoE (lookahead)": 60.0, "DeepSpeed": 200.0}


def table(times: dict[str, float] = TPOT_MS) -> pd.DataFrame:
    labels = [("Mixtral", "chat", footing) for footing in ("even", "released")]
    return pd.DataFrame(
        [
            (*label, system.name, system.form, times[system.title])
            for label in labels
            for system in (*SYSTEMS, *OTHER_FORMS)
            if system.title in times
        ],
        columns=["model", "prompts", "footing", "system", "form", "tpot_ms"],
    )


def claim(baseline: str, paper: float) -> Claim:
    return Claim(
        key=f"10-tpot-{baseline.lower()}",
        figure="10",
        says="",
        rule="number",
        paper=paper,
        unit="share",
        ours=lambda tables: reductions(tables["10"], "tpot_ms", baseline),
    )


def test_exchanging_a_form_changes_only_its_baseline() -> None:
    code = OTHER_FORMS[0]
    found = main_forms(exchanged({"10": table()}, code)["10"]).drop_duplicates(["system", "form"])
    times = {"FineMoE": 50, "MoE-Infinity": 40, "ProMoE": 80, "DeepSpeed": 200}
    assert dict(zip(found["system"], found["tpot_ms"], strict=True)) == times
    assert exchanged(exchanged({"10": table()}, code), code)["10"].equals(table())


def test_only_the_forms_of_the_claims_own_baseline_are_judged() -> None:
    found = with_other_forms(claim("MoE-Infinity", -0.22), {"10": table()})
    titles = {footing: [each.form.title for each in forms] for footing, forms in found.items()}
    assert titles == {"even": ["MoE-Infinity (code)"], "released": ["MoE-Infinity (code)"]}
    judgement = found["even"][0].judgement
    assert (judgement.verdict, judgement.mean) == (NOT_REPRODUCED, pytest.approx(0.25))
    assert with_other_forms(claim("DeepSpeed", -0.46), {"10": table()}) == {}


def test_without_runs_of_other_forms_there_is_no_judgement() -> None:
    alone = table({title: time for title, time in TPOT_MS.items() if "code" not in title and "lookahead" not in title})
    assert with_other_forms(claim("MoE-Infinity", -0.22), {"10": alone}) == {}


def test_the_detail_has_the_verdict_with_the_other_form_and_the_summary_lists_changes(tmp_path: Path) -> None:
    claims = [claim("MoE-Infinity", -0.22), claim("ProMoE", -0.6)]
    rows = write_claims(tmp_path, claims, {"10": table()}, sections={}, notes=[])
    assert rows[0].detail == "with MoE-Infinity (code) +25.0 % (0 of 1), not reproduced"
    assert rows[2].detail == "with ProMoE (lookahead) −16.7 % (1 of 1), same order, other size"
    assert rows[2].verdict == SAME_ORDER
    text = (tmp_path / FILES[1]).read_text(encoding="utf-8")
    _, changed = text.split("Verdicts that change with the other form of a baseline:\n\n")
    listed = changed.split("\n\n", 1)[0].splitlines()[2:]
    places = [[cell.strip() for cell in line.split("|")[1:3]] for line in listed]
    assert places == [["`10-tpot-moe-infinity`", "even"], ["`10-tpot-moe-infinity`", "released"]]


def test_orders_of_several_baselines_are_judged_with_each_form() -> None:
    (order,) = (each for each in Figure10().claims() if each.key == "10-tpot-order")
    times = {"FineMoE": 50.0, "MoE-Infinity (paper)": 60.0, "ProMoE (learned)": 70.0, "ProMoE (lookahead)": 40.0}
    times |= {"Mixtral-Offloading (paper)": 80.0, "DeepSpeed": 90.0}
    (even, _) = judged([order], {"10": table(times)})
    assert even.verdict == "reproduced"
    assert even.detail.endswith("with ProMoE (lookahead) 0 of 1, not reproduced")
