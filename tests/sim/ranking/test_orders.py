"""Orders and flips, beside a brute force over every resample, on tables made by hand."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from sim.ranking.compared import Compared, ComparedMachine, ComparedSystem, ComparedTrace
from sim.ranking.comparison_table import COLUMNS, ComparisonTable, Setting
from sim.ranking.order_tables import OrderTables
from sim.ranking.orders import Orders

SYSTEMS = ("A", "b", "C", "d")
TRACES, GB, MACHINES = ("t", "u"), (6.0, 12.0), ("base", "x", "y")
RESAMPLES = np.array(list(itertools.product(range(4), repeat=4)))
Key = tuple[str, float, str, str]  # trace, cache, machine, system


def table_of(tpot_ms: Mapping[Key, Sequence[float]]) -> ComparisonTable:
    rows = []
    for (trace, gb, machine, system), values in tpot_ms.items():
        row = dict.fromkeys(COLUMNS) | {"trace": trace, "cache_gb": gb, "machine": machine, "system": system}
        row |= {"policy": "lru", "status": "done", "tpot_s_mean": float(np.mean(values)) / 1e3}
        rows.append(row | {"request_tpot_ms": " ".join(map(repr, values)), "request_ttft_ms": "–"})
    facts = {trace: {"prefill": False} for trace in TRACES}
    return ComparisonTable(rows=rows, inputs={"traces": facts, "machines": {}})


def compared(systems: Sequence[str] = SYSTEMS) -> Compared:
    return Compared(
        systems=[ComparedSystem(name=name, policy="lru", letter=name) for name in systems],
        traces=[ComparedTrace(name=name, title=name, sizes=None, source="", made_by=()) for name in TRACES],
        cache_gb=GB,
        machines=[ComparedMachine(name=name, machine=name, meaning="") for name in MACHINES],
        base="base",
        subject=systems[0],
    )


def drawn(seed: int) -> dict[Key, list[float]]:
    """Times of four requests, close enough that many pairs tie and many flip; a few runs are missing."""
    rng = np.random.default_rng(seed)
    found = {}
    for key in itertools.product(TRACES, GB, MACHINES, SYSTEMS):
        values = rng.choice([10, 10.05, 10.8, 12]) + rng.normal(0, 0.5, 4)
        if rng.random() < 0.9:
            found[key] = [float(f"{value:.4f}") for value in values]
    return found


def sign(one: Sequence[float], other: Sequence[float]) -> int:
    """−1 if the first is faster, 0 for a tie: the rule written out, over all 4⁴ resamples."""
    a, b = np.mean(one), np.mean(other)
    if abs(a - b) < 0.01 * min(a, b):
        return 0
    differences = np.array(one) - np.array(other)
    means = np.sort(differences[RESAMPLES].mean(axis=1))
    low, high = (means[math.ceil(share * len(means)) - 1] for share in (0.025, 0.975))
    return 1 if low > 0 else -1 if high < 0 else 0


@pytest.mark.parametrize("seed", range(3))
def test_orders_and_flips_are_those_of_the_rule_written_out(seed: int) -> None:
    tpot_ms = drawn(seed)
    orders = Orders(table_of(tpot_ms), SYSTEMS)
    expected = set()
    for trace, gb, machine in itertools.product(TRACES, GB, MACHINES):
        here = {name: tpot_ms[trace, gb, machine, name] for name in SYSTEMS if (trace, gb, machine, name) in tpot_ms}
        ranked = sorted(here, key=lambda name: np.mean(here[name]))
        ties = [False] + [sign(here[one], here[other]) == 0 for one, other in itertools.pairwise(ranked)]
        assert orders.order(Setting(trace, gb, machine, "tpot")) == list(zip(ranked, ties, strict=True))
        for one, other in itertools.permutations(SYSTEMS, 2):
            keys = [(trace, gb, where, name) for where in ("base", machine) for name in (one, other)]
            if not all(key in tpot_ms for key in keys):
                continue
            before, there = (tpot_ms[keys[0]], tpot_ms[keys[1]]), (tpot_ms[keys[2]], tpot_ms[keys[3]])
            if sign(*before) == -1 and sign(*there) == 1:
                shares = [float(np.mean(mine) / np.mean(theirs) - 1) for mine, theirs in (before, there)]
                expected.add((trace, gb, machine, one, other, *[f"{share:.9f}" for share in shares]))
    found = [
        (*flip.setting[:3], flip.faster_on_base, flip.faster_there, f"{flip.base:.9f}", f"{flip.there:.9f}")
        for flip in orders.flips("tpot", "base", ("x", "y"))
    ]
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert len(expected) > 2


def by_hand() -> ComparisonTable:
    base = {"A": [10, 11, 12, 13], "b": [20, 21, 22, 23], "C": [20, 24, 18, 24.5], "d": [30, 30, 30, 30]}
    x = {"A": [25, 26, 27, 28], "b": [20, 21, 22, 23], "C": [20, 21, 22, 23.2], "d": [24, 24, 24, 24]}
    found = {"base": base, "x": x}
    return table_of({("t", 6.0, machine, name): found[machine][name] for machine in found for name in base})


def test_an_order_by_hand() -> None:
    tables = OrderTables(by_hand(), compared())
    texts = [tables.order_text(Setting("t", 6.0, machine, "tpot")) for machine in MACHINES]
    assert texts == ["A(bC)d", "(bC)dA", "–"]  # C's requests are now slower, now faster than b's; then 0.2 % slower
    assert tables.order_rows(["tpot"]).rows[1] == ["t", "x", "(bC)dA ⇅3", "–"]


def test_flips_by_hand() -> None:
    tables = OrderTables(by_hand(), compared())
    assert [row[0] for row in tables.flip_rows("tpot").rows] == ["A / b", "A / C", "A / d"]
    assert tables.flip_rows("tpot").rows[2] == ["A / d", "1", "–", "t, 6 GB, x", "A −62 → +10 %"]
    assert tables.subject_flip_rows("tpot").rows[0] == ["b", "t, 6 GB", "−47", "**+23**", "–"]
    assert tables.subject_rows("tpot").rows[0] == ["b", "1 / 0 / 0, −47 %", "0 / 0 / 1, +23 %", "–"]
    assert tables.changed("tpot") == [("x", 1), ("y", 0)]
    assert list(tables.constant("tpot")) == [("b", [("d", 2)]), ("C", [("d", 2)])]
    assert [row[1:] for row in tables.first_rows("tpot").rows] == [[*"100"], [*"010"], [*"010"], [*"000"]]


def test_a_single_request_has_no_interval_and_ties_below_one_percent_alone() -> None:
    tables = OrderTables(
        table_of({("t", 6.0, "base", "A"): [10.0], ("t", 6.0, "base", "b"): [10.2], ("t", 6.0, "base", "C"): [10.29]}),
        compared(),
    )
    assert tables.order_text(Setting("t", 6.0, "base", "tpot")) == "A(bC)"
