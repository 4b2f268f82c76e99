"""Whose predictions can be shared, and what they depend on."""

from itertools import combinations

import pytest

from policies.registry import make_policy
from sim.shared_predictions import prediction_identity


def test_the_identity_is_that_of_the_prefetcher_alone():
    one = prediction_identity("finemoe,capacity=9")
    assert (
        one
        == prediction_identity("finemoe,capacity=9,count_misses=false")
        == prediction_identity("finemoe,capacity=9+lru")
    )
    assert one["capacity"] == 9
    assert one["prefetcher"] == "policies.systems.finemoe:ExpertMapPrefetcher"


@pytest.mark.parametrize(
    "spec",
    [
        "finemoe,prefetch_distance=2",
        "finemoe,capacity=9",
        "finemoe,learn=false",
        "finemoe,fill=redundancy",
        "finemoe,prefill_records=iteration",
        "finemoe,semantic=false",
        "finemoe,threshold=demo",
        "finemoe,queue=all",
        "hit-count,prefetch_distance=2",
        "hit-count,capacity=9",
        "moe-infinity,prefetch_distance=2",
        "moe-infinity,capacity=9",
        "promoe,prefetch_distance=2",
        "promoe,lookahead=false",
        "promoe,regularisation=2",
        "promoe,train_tokens=9",
    ],
)
def test_each_setting_of_the_prediction_is_part_of_the_identity(spec):
    assert prediction_identity(spec) != prediction_identity(spec.partition(",")[0])


def test_policies_that_predict_alike_share():
    assert prediction_identity("promoe,chunk_bytes=9") == prediction_identity("speculate") is not None
    assert prediction_identity("moe-infinity,blocking_prefetch=false") == prediction_identity("moe-infinity")
    different = [prediction_identity(spec) for spec in ("finemoe", "hit-count", "mixtral-offloading", "moe-infinity")]
    assert None not in different
    assert all(one != other for one, other in combinations(different, 2))


@pytest.mark.parametrize(
    "spec",
    ["lru", "finemoe,reach=rest", "tests.support.learned_policy:learned", "finemoe+mine:evictor"],
)
def test_predictions_of_others_are_not_shared(spec):
    assert prediction_identity(spec) is None


def test_a_policy_that_is_checked_shares_nothing():
    assert prediction_identity("finemoe", check=True) is None


@pytest.mark.parametrize("name", ["finemoe", "hit-count", "moe-infinity", "promoe"])
def test_every_setting_of_a_prefetcher_is_in_the_identity(name):
    assert set(vars(make_policy(name).prefetcher)) < set(prediction_identity(name))
