"""Every number and order of the paper's text has its claim. The lists were written from the paper, not from code."""

from collections import Counter

import pytest

from sim.paper.catalogue_of_figures import FIGURES
from sim.paper.claims.claim import NOT_JUDGED, NOT_REPRODUCED, SAME_ORDER, Claim
from sim.paper.claims.general_claims import ABOUT, general_claims
from sim.paper.footings import FOOTINGS

NUMBERS = {
    # table 1
    "table-1-active-parameters-mixtral": 12.9e9,
    "table-1-total-parameters-mixtral": 46.7e9,
    "table-1-layers-mixtral": 32,
    "table-1-active-parameters-qwen": 2.7e9,
    "table-1-total-parameters-qwen": 14.3e9,
    "table-1-layers-qwen": 24,
    "table-1-active-parameters-phi": 6.6e9,
    "table-1-total-parameters-phi": 42e9,
    "table-1-layers-phi": 32,
    # figure 10, §6.2: means over models and data sets
    "10-ttft-deepspeed": -0.74,
    "10-ttft-mixtral-offloading": -0.67,
    "10-ttft-promoe": -0.56,
    "10-ttft-moe-infinity": -0.53,
    "10-tpot-deepspeed": -0.46,
    "10-tpot-mixtral-offloading": -0.38,
    "10-tpot-promoe": -0.27,
    "10-tpot-moe-infinity": -0.22,
    "10-hit-mixtral-offloading": 0.14,
    "10-hit-promoe": 0.37,
    "10-hit-moe-infinity": 0.68,
    # figure 12: at 6 GB
    "12-tpot-deepspeed": -0.36,
    "12-tpot-mixtral-offloading": -0.25,
    "12-tpot-promoe": -0.16,
    "12-tpot-moe-infinity": -0.29,
    # figure 15, §6.7
    "15-minimum-mixtral": 3,
    "15-minimum-qwen": 6,
    "15-minimum-phi": 4,
    # abstract
    "headline-latency": -0.47,
    "headline-hit": 0.39,
}
ORDERS_AND_LIMITS = {
    *("table-1-experts-mixtral", "table-1-experts-qwen", "table-1-experts-phi"),
    *("1b-no-offload-corner", "1b-deepspeed-corner", "1b-finemoe-origin"),
    *("3a-heat-maps", "3b-entropy-coarse", "3c-entropy-plateau", "3c-entropy-models"),
    *("4-hit-coarse", "4-hit-distance"),
    *("8-hit-semantic", "8-hit-trajectory", "9-pearson-semantic", "9-pearson-trajectory"),
    *("10-ttft-order", "10-tpot-order", "10-hit-order", "10-deepspeed-worst"),
    "11-latency-leftmost",
    *("12-tpot-order", "12-gaps"),
    *("13-gains", "13-hit", "13-tpot-moe-infinity-mixtral"),
    *("14a-hit-count", "14a-map-ts", "14a-map-ts-delta", "14b-lru-lfu", "14b-lfu-finemoe"),
    "15-u-shape",
    *("16a-score-rise", "16a-score-flat", "16b-lowest"),
    *("17-overhead-ms", "17-overhead-share"),
    *("18-memory", "18-memory-qwen", "18-memory-with-embeddings"),
    *("theory-75", "theory-98"),
}
LIMITS = {
    "9-pearson-semantic": (0.84, 0.97),
    "9-pearson-trajectory": (0.84, 0.97),
    "17-overhead-ms": (None, 50),
    "18-memory": (None, 200),
    "18-memory-with-embeddings": (None, 200),
}
FIGURES_WITH_DATA = [
    "table-1",
    "1b",
    "3a",
    "3b",
    "3c",
    "4",
    "8",
    "9",
    "10",
    "12",
    "13",
    "14a",
    "14b",
    "15",
    "16a",
    "16b",
]
FIGURES_WITH_DATA += ["17", "18"]  # figure 11 is of requests that arrive online


@pytest.fixture(scope="module")
def claims() -> dict[str, Claim]:
    of_figures = [claim for figure in FIGURES for claim in figure.claims()]
    every = [*of_figures, *general_claims(of_figures)]
    assert [key for key, count in Counter(claim.key for claim in every).items() if count > 1] == []
    return {claim.key: claim for claim in every}


def test_the_catalogue_has_every_figure_with_data_in_the_papers_order() -> None:
    keys = [figure.key for figure in FIGURES]
    assert [key for key in keys if key in FIGURES_WITH_DATA] == FIGURES_WITH_DATA


def test_every_number_of_the_text_has_its_claim(claims: dict[str, Claim]) -> None:
    numbers = {key: claim.paper for key, claim in claims.items() if claim.rule == "number"}
    assert numbers == pytest.approx(NUMBERS)


def test_every_order_and_limit_of_the_text_has_its_claim(claims: dict[str, Claim]) -> None:
    assert sorted(ORDERS_AND_LIMITS - set(claims)) == []
    assert {key: (claims[key].low, claims[key].high) for key in LIMITS} == LIMITS


def test_a_claim_is_named_after_its_figure_and_reads_existing_tables(claims: dict[str, Claim]) -> None:
    keys = {figure.key for figure in FIGURES}
    for claim in claims.values():
        assert claim.key.startswith(f"{claim.figure}-")
        assert claim.figure in keys or claim.figure in ABOUT
        assert claim.figure == "11" or set(claim.tables) <= keys
        assert "|" not in claim.says
        assert "|" not in "".join(claim.reasons.values())


def test_every_reason_belongs_to_a_footing_and_a_verdict_that_needs_one(claims: dict[str, Claim]) -> None:
    for claim in claims.values():
        for key in claim.reasons:
            footing, verdict = key if isinstance(key, tuple) else ("even", key)
            assert footing in [each.name for each in FOOTINGS]
            assert verdict in (SAME_ORDER, NOT_REPRODUCED, NOT_JUDGED)


def test_the_headline_is_the_mean_of_figure_10s_numbers(claims: dict[str, Claim]) -> None:
    times = [
        claim.paper or 0 for key, claim in claims.items() if key.startswith(("10-ttft-", "10-tpot-")) and claim.paper
    ]
    hits = [claim.paper or 0 for key, claim in claims.items() if key.startswith("10-hit-") and claim.paper]
    assert (len(times), len(hits)) == (8, 3)
    assert sum(times) / 8 == pytest.approx(-0.479, abs=5e-4)
    assert sum(hits) / 3 == pytest.approx(0.397, abs=5e-4)
