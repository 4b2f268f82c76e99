"""Claims of the paper, and our values of them from tables made by hand."""

import math

import pandas as pd
import pytest

from sim.paper.claims.claim import NOT_REPRODUCED, SAME_ORDER, Claim
from sim.paper.claims.claim_values import changes, each_trace, hit_gains, nothing, rising

TABLE = pd.DataFrame(
    [
        ("Mixtral", "chat", "even", "FineMoE", 60.0, 0.90),
        ("Mixtral", "chat", "even", "ProMoE", 80.0, 0.60),
        ("Mixtral", "text", "even", "FineMoE", 50.0, 0.80),
        ("Mixtral", "text", "even", "ProMoE", 40.0, 0.50),
        ("Mixtral", "text", "even", "DeepSpeed", 200.0, 1.00),
        ("Mixtral", "text", "released", "FineMoE", 50.0, 0.80),
    ],
    columns=["model", "prompts", "footing", "system", "tpot_ms", "hit_rate"],
)


def test_a_change_is_relative_to_the_baseline_on_each_footing_and_trace() -> None:
    found = changes(TABLE, "tpot_ms", "ProMoE")
    assert found["footing"].tolist() == ["even", "even", "released"]
    assert found["trace"].tolist() == ["Mixtral, chat", "Mixtral, text", "Mixtral, text"]
    assert found["value"].tolist()[:2] == pytest.approx([-0.25, 0.25])
    assert math.isnan(found["value"].tolist()[2])  # nothing to measure it against there


def test_a_gain_in_hits_is_relative_with_points_as_detail() -> None:
    found = hit_gains(TABLE[TABLE["footing"] == "even"], "hit_rate", "ProMoE")
    assert found["value"].tolist() == pytest.approx([0.5, 0.6])
    assert set(found["detail"]) == {"as a difference: +30.0 points"}


def test_an_order_holds_or_not_and_is_nan_if_a_side_is_missing() -> None:
    found = rising(TABLE, "tpot_ms", ["FineMoE", "ProMoE"])
    assert found["value"].tolist()[:2] == [1.0, 0.0]
    assert math.isnan(found["value"].tolist()[2])


def test_equal_values_do_not_rise() -> None:
    assert rising(TABLE.assign(tpot_ms=1.0), "tpot_ms", ["FineMoE", "ProMoE"])["value"].tolist()[:2] == [0.0, 0.0]


def test_a_table_of_routing_alone_counts_for_both_footings() -> None:
    found = each_trace(TABLE.drop(columns="footing").head(2), lambda rows: rows["tpot_ms"].max())
    assert found[["footing", "trace", "value"]].values.tolist() == [["both", "Mixtral, chat", 80.0]]


def test_two_rows_of_one_system_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rows of ProMoE on one trace"):
        changes(pd.concat([TABLE, TABLE[TABLE["system"] == "ProMoE"]]), "tpot_ms", "ProMoE")


def test_a_table_without_rows_gives_no_value() -> None:
    assert changes(TABLE.head(0), "tpot_ms", "ProMoE").empty


@pytest.mark.parametrize(
    "wrong", [{"rule": "number"}, {"rule": "order", "paper": 1.0}, {"rule": "range", "low": 0.5}, {"rule": "bound"}]
)
def test_a_claim_has_what_its_rule_needs(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"x: (a range needs|`paper` must)"):
        Claim(key="x", figure="1", says="", ours=lambda tables: nothing(), **wrong)


def test_a_reason_ends_without_a_full_stop() -> None:
    with pytest.raises(ValueError, match="x: a reason must not end with a full stop"):
        Claim(key="x", figure="1", says="", rule="order", ours=lambda tables: nothing(), reasons={SAME_ORDER: "Why."})


def test_a_reason_for_a_footing_takes_precedence_over_one_for_a_verdict() -> None:
    reasons = {NOT_REPRODUCED: "in general", ("released", NOT_REPRODUCED): "serial demand"}
    claim = Claim(key="x", figure="1", says="", rule="order", ours=lambda tables: nothing(), reasons=reasons)
    assert claim.reason("released", NOT_REPRODUCED) == "serial demand"
    assert claim.reason("even", NOT_REPRODUCED) == "in general"
    assert claim.reason("even", SAME_ORDER) == ""
