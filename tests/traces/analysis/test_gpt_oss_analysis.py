"""`finemoe traces analyse` on real routing of gpt-oss-20b, against published measurements and the arrays."""

import contextlib
import io
import json
from collections import OrderedDict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.support.shared_data import GPT_OSS
from traces.__main__ import main as traces

pytestmark = pytest.mark.skipif(
    not GPT_OSS.exists(), reason=f"{GPT_OSS} is not there; FINEMOE_DATA names another place"
)

Arrays = dict[str, Any]


@pytest.fixture(scope="module", params=[8, pytest.param(40, marks=pytest.mark.slow)])
def requests(request: pytest.FixtureRequest) -> int:
    """How many of the first ones are analysed."""
    return int(request.param)


@pytest.fixture(scope="module")
def experts(requests: int) -> list[Any]:
    """Per request, the executed experts `[T, L, K]`."""
    with np.load(GPT_OSS) as archive:
        offsets = archive["offsets"][: requests + 1]
        rows = archive["experts"]
    return [rows[first:end] for first, end in pairwise(offsets)]


@pytest.fixture(scope="module")
def found(requests: int, tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    path = tmp_path_factory.mktemp("gpt-oss") / "gpt-oss.trace"
    words = ["convert", "npz", GPT_OSS, "--model", "gpt-oss-20b", "--max-requests", requests, "--out", path]
    assert traces([str(word) for word in words]) == 0
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert traces(["analyse", str(path), "--json"]) == 0
    result: Arrays = json.loads(printed.getvalue())
    return result


def test_consecutive_iterations_share_forty_four_in_a_hundred_experts(found: Arrays, experts: list[Any]) -> None:
    assert found["all_layers"]["overlap"] == pytest.approx(0.44, abs=0.01)
    again = [
        (one[1:, :, :, None] == one[:-1, :, None, :]).any(axis=3).mean(axis=2)  # [T - 1, L]
        for one in experts
    ]
    per_layer = [each["overlap"] for each in found["per_layer"]]
    np.testing.assert_allclose(per_layer, np.concatenate(again).mean(axis=0))
    assert min(per_layer) < 0.25 < 0.55 < max(per_layer)  # layers differ widely


def test_caches_of_half_the_experts_hit_as_often_as_others_measured(found: Arrays) -> None:
    """Per layer, cold per request; all 200 requests give 0.891 and 0.939."""
    assert found["all_layers"]["lru_hit_rate_0.5"] == pytest.approx(0.887, abs=0.01)
    assert found["all_layers"]["belady_hit_rate_0.5"] == pytest.approx(0.941, abs=0.01)
    lru = [each["lru_hit_rate_0.5"] for each in found["per_layer"]]
    belady = [each["belady_hit_rate_0.5"] for each in found["per_layer"]]
    assert len(lru) == 24
    assert all(bound >= real for bound, real in zip(belady, lru, strict=True))
    assert min(lru) == pytest.approx(0.64, abs=0.05)  # the span of layers (`reference/field.md`)
    assert max(lru) == pytest.approx(0.98, abs=0.02)


@pytest.mark.parametrize("layer", [0, 11])
def test_lru_is_that_of_a_cache_run_through_the_arrays(found: Arrays, experts: list[Any], layer: int) -> None:
    hits = demands = 0
    for request in experts:
        held: OrderedDict[int, None] = OrderedDict()
        for row in request[:, layer].tolist():
            hits += sum(expert in held for expert in row)
            demands += len(row)
            for expert in sorted(row):  # the higher number counts as more recent
                held.pop(expert, None)
                held[expert] = None
            while len(held) > 16:
                held.popitem(last=False)
    assert found["per_layer"][layer]["lru_hit_rate_0.5"] == pytest.approx(hits / demands, abs=1e-9)


def test_fine_maps_are_far_less_uncertain_than_coarse_ones(found: Arrays) -> None:
    assert not found["gate_complete"]
    for each in found["per_layer"]:
        assert each["fine_bits"] <= 2 < 3 < each["coarse_bits"] < 5  # four experts' weights: two bits at most


def test_similar_maps_share_experts_and_the_theory_is_put_to_the_test(found: Arrays) -> None:
    by_kind = {each["similarity"]: each for each in found["similarity"]}
    assert by_kind.keys() == {"trajectory", "ahead"}  # no embeddings
    assert by_kind["trajectory"]["pearson_pairs"] > 0.95
    assert by_kind["ahead"]["pearson_bins"] > 0.9 > by_kind["ahead"]["pearson_pairs"] > 0.5
    # L·J = 768: 2LJ = 1536, ½ · 768 · ln 768 = 2551
    theory = {each["asked_maps"]: each for each in found["coverage"] if each["theory"]}
    assert {maps: each["theory"] for maps, each in theory.items()} == {1536: 0.75, 2551: 0.98}
    assert 0.7 < theory[1536]["similarity_mean"] <= theory[2551]["similarity_mean"] < 0.9
