"""Prediction quality without time: worked by hand, in closed form, and on gpt-oss-20b."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from policies.base import Evictor, Policy, Prefetcher
from policies.hooks import Hooks
from policies.prediction.past_records import sample
from policies.types import Likely, Prefetch, RecordedRequest, Search
from sim.forecast.plan_scores import at_distance, measure, score_plans, tidy
from sim.forecast.tally import moved, rates, summarise_layers
from tests.support.builders import KnownFuture, Script, random_requests, request_of, setup_of, shape, with_lookahead
from tests.support.shared_data import GPT_OSS
from tests.support.slow_cases import slow_but
from traces.published_models import published


def scored(prefetcher, model, requests, batch_size=1, leads=None):
    """The tallies by lead of a prefetcher that has been started."""
    policy = Policy(prefetcher=prefetcher, evictor=Evictor())
    policy.evictor.start(setup_of(model))
    return score_plans(Hooks(policy), model, requests, batch_size, leads=leads)[0]


def counted(prefetcher, model, requests, batch_size=1):
    """Counts by (prefill, layer) of the last plans."""
    return scored(prefetcher, model, requests, batch_size, leads=(1,))[1].frame().set_index(["prefill", "layer"])


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_plans_are_compared_with_what_was_executed_worked_by_hand():
    """Two decode steps, two layers, four experts, top-2.

    Step 0 executes {0, 1} and {2, 3}: nothing stood for layer 0; {2, 0} for layer 1, one of two right.
    Step 1 executes {0, 2} and {1, 2}: for layer 0 {0, 2, 3} stood since layer 1 of step 0, two of three right; for
    layer 1 {0} was replaced by {1, 2}, and a plan made once it had been gated is for a step that never comes.
    """
    model = shape(layers=2, experts=4, top_k=2)
    request = request_of([[[0, 1], [2, 3]], [[0, 2], [1, 2]]], model)
    script = Script(
        {
            (0, 0): [Prefetch(1, [2, 0], [1.0, 0.5])],
            (0, 1): [Prefetch(0, [0, 2, 3], [0.1, 0.2, 0.9])],
            (1, -1): [Prefetch(1, [0], [1.0])],
            (1, 0): [Prefetch(1, [1, 2], [1.0, 1.0])],
            (1, 1): [Prefetch(1, [3], [1.0])],
        }
    )
    counts = counted(script, model, [request])
    assert counts.index.tolist() == [(False, 0), (False, 1)]
    assert counts["events"].tolist() == [2, 2]
    assert counts["tokens"].tolist() == [2, 2]
    assert counts["planned_events"].tolist() == [1, 2]
    assert counts["executed"].tolist() == [4, 4]
    assert counts["planned"].tolist() == [3, 4]
    assert counts["hits"].tolist() == [2, 3]
    # By weight: of layer 0 {3, 2}, one right; of layer 1 all that was planned.
    assert counts["ranked_hits"].tolist() == [1, 3]
    assert counts["lead_sum"].tolist() == [1, 1 + 1]  # the next step's layer 0 is one layer after layer 1

    shares = rates(counts)
    assert shares["recall"].tolist() == [2 / 4, 3 / 4]
    assert shares["precision"].tolist() == [2 / 3, 3 / 4]
    assert shares["recall_at_k"].tolist() == [1 / 4, 3 / 4]
    assert shares["coverage"].tolist() == [1 / 2, 1]
    for sizes, useful, wasted in ([None, [48, 72], [24, 24]], [(10, 100), [20, 300], [10, 100]]):
        copies = moved(counts.reset_index(), replace(model, expert_bytes_by_layer=sizes))
        assert copies["useful_bytes"].tolist() == useful
        assert copies["wasted_bytes"].tolist() == wasted


def test_the_ranking_is_the_belief_if_there_is_one_and_an_empty_plan_is_none():
    """The belief ranks {3, 1} first, though {0, 1} are planned and executed; the empty plan takes back what stood."""
    model = shape(layers=2, experts=4, top_k=2)
    request = request_of([[[0, 1], [0, 1]]], model)
    belief = np.array([0.1, 0.3, 0.1, 0.5])
    script = Script(
        {
            (0, -1): [Prefetch(0, [0, 1], [1.0, 1.0], belief), Prefetch(1, [0], [1.0])],
            (0, 0): [Prefetch(1, [], [])],
        }
    )
    counts = counted(script, model, [request])
    assert counts["hits"].tolist() == [2, 0]
    assert counts["ranked_hits"].tolist() == [1, 0]
    assert counts["planned_events"].tolist() == [1, 0]


def test_tokens_that_run_together_are_one_event_of_distinct_experts():
    """A prefill of two tokens executes {0, 1, 2}: the first three of the ranking {0, 3, 1, 2} hold two of them."""
    model = shape(layers=1, experts=4, top_k=2)
    request = request_of([[[0, 1]], [[1, 2]], [[3, 0]]], model, prefill_tokens=2)
    plan = Prefetch(0, [0, 1, 2, 3], [0.9, 0.5, 0.4, 0.8])
    counts = counted(Script({(0, -1): [plan], (1, -1): [plan]}), model, [request])
    assert counts["executed"].to_dict() == {(False, 0): 2, (True, 0): 3}
    assert counts["ranked_hits"].to_dict() == {(False, 0): 2, (True, 0): 2}
    assert counts["tokens"].to_dict() == {(False, 0): 1, (True, 0): 2}


class Delayed(Prefetcher):
    """Answers searches with the number of the layer that asked; plans two layers ahead."""

    def on_gate(self, batch, gate):
        for _ in range(2):
            yield Search("speculate", gate.layer, 1, 1, 1)

    def search(self, search):
        return Likely(np.array([search.layer]), np.ones((1, 1, 4)))

    def on_found(self, batch, layer_now, search, found):
        assert layer_now == search.layer == found.layers[0]
        if search.layer + 2 < 4:
            yield Prefetch(search.layer + 2, [search.layer], [1.0])


def test_searches_are_answered_at_once_and_recalls_ahead_leave_the_first_layers_out():
    model = shape(layers=4, experts=4, top_k=1)
    request = request_of([[[0], [0], [0], [1]]] * 3, model)
    tallies = scored(Delayed(), model, [request])
    assert list(tallies) == [2]
    counts = tallies[2].frame()
    assert counts["hits"].tolist() == [0, 0, 3, 3]
    frame = counts.assign(policy="delayed", distance=2)
    (row,) = summarise_layers(pd.concat([frame, moved(frame, model)], axis=1)).to_dict("records")
    assert (row["recall"], row["recall_ahead"]) == (0.5, 1.0)
    assert (row["coverage"], row["coverage_ahead"]) == (0.5, 1.0)
    assert (row["precision"], row["lead_mean"]) == (1.0, 2.0)
    assert row["tokens"] == 3


class EveryGate(Prefetcher):
    """At each gate, plans each later layer anew: the expert whose number is how far ahead the layer is."""

    def on_gate(self, batch, gate):
        for layer in range(gate.layer + 1, 4):
            yield Prefetch(layer, [layer - gate.layer], [1.0])


def test_a_policy_is_shown_at_every_lead_for_which_it_plans():
    """Layer 3 executes expert 2, which was planned two layers ahead, and replaced by expert 1 one layer ahead.

    Layer 1 executes expert 1 and has but one layer before it: at all leads its last plan counts. Layer 0 has none.
    """
    model = shape(layers=4, experts=4, top_k=1)
    request = request_of([[[0], [1], [0], [2]]] * 5, model)
    tallies = scored(EveryGate(), model, [request])
    assert list(tallies) == [1, 2, 3]
    hits = {lead: tally.frame()["hits"].tolist() for lead, tally in tallies.items()}
    assert hits == {1: [0, 5, 0, 0], 2: [0, 5, 0, 5], 3: [0, 5, 0, 0]}
    leads = {lead: tally.frame()["lead_sum"].tolist() for lead, tally in tallies.items()}
    assert leads == {1: [0, 5, 5, 5], 2: [0, 5, 10, 10], 3: [0, 5, 5, 15]}


WITH_SEARCH = "hit-count,prefetch_distance=1"


def test_a_policy_that_plans_without_a_search_is_not_charged():
    model = shape(layers=3, experts=6, top_k=2)
    requests = random_requests(model, np.random.default_rng(1), requests=2)
    charged = {spec: measure(spec, model, requests).charged for spec in ("deepspeed", WITH_SEARCH, "speculate")}
    assert charged == {"deepspeed": False, WITH_SEARCH: True, "speculate": None}  # nothing to speculate by


# ---- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("spec", ["perfect-prefetch,prefetch_distance=2", "clairvoyant", "deepspeed"])
def test_oracles_and_policies_that_plan_all_experts_recall_all(spec, batch_size):
    model = shape(layers=3, experts=6, top_k=2)
    requests = random_requests(model, np.random.default_rng(1), requests=3, prefill_tokens=4)
    found = measure(spec, model, requests, future=KnownFuture(model, requests), batch_size=batch_size)
    shares = rates(found.layers)
    assert (shares["recall"] == 1).all()
    assert (shares["coverage"] == 1).all()
    if spec.startswith("perfect"):
        assert (shares["precision"] == 1).all()
        assert (shares["recall_at_k"] == 1).all()
        assert (moved(found.layers, model)["wasted_bytes"] == 0).all()
    if spec == "deepspeed":
        assert (found.layers["planned"] == found.layers["events"] * 6).all()
        assert set(found.layers["distance"]) == {1}


class Fixed(Prefetcher):
    """The same experts for each layer."""

    def __init__(self, experts):
        self.experts = experts

    def on_batch(self, batch):
        return [Prefetch(layer, each, [1.0] * len(each)) for layer, each in enumerate(self.experts)]


def test_a_constant_prediction_recalls_the_share_of_its_experts():
    model = shape(layers=3, experts=8, top_k=2)
    requests = random_requests(model, np.random.default_rng(2), requests=4, decoded=25)
    experts = [[0, 5], [1], [2, 3, 4]]
    counts = counted(Fixed(experts), model, requests)
    for layer, chosen in enumerate(experts):
        ran = np.concatenate([request.experts[:, layer] for request in requests])
        share = rates(counts).loc[(False, layer)]
        assert share["recall"] == np.isin(ran, chosen).mean()
        assert share["precision"] == np.isin(ran, chosen).sum() / (len(ran) * len(chosen))


class Guess(Prefetcher):
    def start(self, setup):
        self.model, self.rng = setup.model, setup.rng

    def on_batch(self, batch):
        model = self.model
        for layer in range(model.layers):
            yield Prefetch(layer, self.rng.permutation(model.experts)[: model.top_k].tolist(), [1.0] * model.top_k)


def test_guessing_recalls_k_of_j():
    """2400 events, each recalling 2 · 2/8 of its two on average: a share of 1/4, standard deviation 0.006."""
    model = shape(layers=3, experts=8, top_k=2)
    requests = random_requests(model, np.random.default_rng(3), requests=8, decoded=100)
    prefetcher = Guess()
    prefetcher.start(setup_of(model, rng=np.random.default_rng(4)))
    counts = counted(prefetcher, model, requests).sum()
    assert counts["hits"] / counts["executed"] == pytest.approx(2 / 8, abs=0.02)
    assert counts["hits"] == counts["ranked_hits"]


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_perfect_lookahead_gates_recall_all_but_the_first_layer(distance):
    model = shape(layers=4, experts=6, top_k=2)
    drawn = random_requests(model, np.random.default_rng(5), requests=2)
    requests = [with_lookahead(each, *range(1, distance + 1)) for each in drawn]
    found = measure(f"speculate,prefetch_distance={distance}", model, requests, leads=(distance,))
    shares = rates(found.layers)
    assert shares["recall"].tolist() == shares["recall_at_k"].tolist() == [0, 1, 1, 1]
    assert shares["coverage"].tolist() == [0, 1, 1, 1]
    assert shares["lead_mean"].tolist()[1:] == [min(distance, layer) for layer in (1, 2, 3)]


# ---- gpt-oss-20b -----------------------------------------------------------------------------------------------------

needs_gpt_oss = pytest.mark.skipif(
    not GPT_OSS.exists(), reason=f"{GPT_OSS} is not there; FINEMOE_DATA names another place"
)


@pytest.fixture(scope="module")
def gpt_oss():
    """The model, 60 requests of history, and the first 60 steps of 5 others."""
    model = published("gpt-oss-20b")
    with np.load(GPT_OSS) as archive:
        arrays = {name: archive[name] for name in archive.files}
    offsets = arrays["offsets"]
    order = np.random.default_rng(8).permutation(len(offsets) - 1).tolist()

    def request(number, most=10**6):
        rows = slice(offsets[number], min(offsets[number + 1], offsets[number] + most))
        experts = arrays["experts"][rows].astype(np.int16)
        gate = np.zeros((*experts.shape[:2], model.experts), np.float16)
        np.put_along_axis(gate, experts.astype(np.int64), arrays["probs"][rows], axis=2)
        steps = np.arange(1, len(gate) + 1, dtype=np.int32)
        return RecordedRequest(number, "gpt-oss", steps, steps, arrays["token"][rows].astype(np.int32), gate, experts)

    return model, [request(number) for number in order[:60]], [request(number, 60) for number in order[140:145]]


@needs_gpt_oss
@pytest.mark.parametrize("distance", slow_but([1, 3, 8], 3))
def test_recall_of_the_nearest_map_follows_from_the_arrays_alone(gpt_oss, distance):
    """Eq. 5 written out for whole prefixes at once: the share of executed experts among the K most probable.

    Only the sample that fills the store is drawn with the project's code. Equal but for a few near-ties.
    """
    model, history, tested = gpt_oss
    found = measure(
        f"finemoe,learn=false,prefetch_distance={distance}", model, tested, leads=(distance,), history=history
    )
    ahead = found.layers[found.layers["layer"] >= distance]

    records = ((each.gate.astype(np.float32), None) for each in history)
    ((known, _),) = sample(records, 1000, np.random.default_rng(0))
    asked = np.concatenate([each.gate for each in tested]).astype(np.float32)
    executed = np.concatenate([each.experts for each in tested]).astype(np.int64)
    hits = []
    for layer in range(distance, model.layers):
        seen = slice(0, layer - distance + 1)
        keys, queries = known[:, seen].reshape(len(known), -1), asked[:, seen].reshape(len(asked), -1)
        nearest = (queries @ (keys / np.linalg.norm(keys, axis=1, keepdims=True)).T).argmax(axis=1)
        probable = np.argsort(-known[nearest, layer], axis=1, kind="stable")[:, : model.top_k]
        hits.append((probable[:, :, None] == executed[:, layer, None]).sum())
    assert ahead["executed"].tolist() == [executed[:, 0].size] * (model.layers - distance)
    np.testing.assert_allclose(ahead["ranked_hits"], hits, rtol=0.002)
    assert 0.5 < ahead["ranked_hits"].sum() / ahead["executed"].sum() < 0.7
    assert (found.layers.loc[found.layers["layer"] < distance, "planned"] == 0).all()  # no embeddings


@needs_gpt_oss
@pytest.mark.parametrize("distances", [(1, 8), pytest.param(range(1, 9), marks=pytest.mark.slow)], ids=["ends", "all"])
def test_fine_maps_recall_more_than_coarse_counts_at_every_distance(gpt_oss, distances):
    """Figure 4: expert maps above counts of the whole request, over the layers that both can guide.

    By trajectory only, as there are no embeddings: `map-t` is the same here.
    """
    model, history, tested = gpt_oss
    tested = tested[:2]
    found = [
        (policy, measure(at_distance(policy, distance), model, tested, leads=(distance,), history=history))
        for policy in ("finemoe", "hit-count")
        for distance in distances
    ]
    summary = summarise_layers(tidy(found, model))
    for measured in ("recall_ahead", "recall_at_k_ahead"):
        recall = summary.pivot_table(index="distance", columns="policy", values=measured)
        assert recall.index.tolist() == list(distances)
        assert (recall["finemoe"] > recall["hit-count"] + 0.05).all()
