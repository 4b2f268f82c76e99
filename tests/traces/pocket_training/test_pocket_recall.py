"""Recall of predicted experts on recorded routing, against brute force and hand-made cases."""

import numpy as np
import pytest

from traces.analysis.iterations import top
from traces.analysis.nearest_map import nearest_maps
from traces.pocket_training.recall import Routing, expert_load, recall, same_token_by_chance, sample

LAYERS, EXPERTS, TOP_K = 4, 6, 2
DISTANCES = (1, 3)


def made_up(tokens: int, draw: np.random.Generator, prompt: int = 2) -> Routing:
    """Routing of one text whose look-ahead is arbitrary."""
    gate = draw.dirichlet(np.ones(EXPERTS), size=(tokens, LAYERS)).astype(np.float16)
    experts = np.argsort(-gate.astype(np.float32), axis=-1)[..., :TOP_K]
    ahead = {
        d: np.argsort(draw.random((tokens, LAYERS - d, EXPERTS)), axis=-1)[..., :TOP_K].astype(np.int16)
        for d in DISTANCES
    }
    return Routing(draw.integers(0, 5, tokens), gate, experts.astype(np.int16), prompt, ahead)


@pytest.fixture
def texts() -> list[Routing]:
    draw = np.random.default_rng(4)
    return [made_up(tokens, draw) for tokens in (9, 5, 12, 7)]


def ranked(scores: "list[float]") -> set[int]:
    """The experts with the highest scores, ties to the lower index."""
    return set(sorted(range(EXPERTS), key=lambda expert: (-scores[expert], expert))[:TOP_K])


def test_recall_is_what_a_loop_over_tokens_and_layers_counts(texts: list[Routing]) -> None:
    stored, requests = texts[:2], texts[2:]
    everything = [(text, token) for text in stored for token in range(len(text.token))]
    kept = np.sort(np.random.default_rng(3).permutation(len(everything))[:8])
    store = [everything[index] for index in kept]
    counts = np.zeros((LAYERS, EXPERTS))
    for text, token in everything:
        for layer in range(LAYERS):
            counts[layer, text.experts[token, layer]] += 1
    popularity = counts / len(everything)
    for result in recall(stored, requests, DISTANCES, capacity=8, seed=3):
        d = result.distance
        found: dict[str, list[float]] = {name: [] for name in ("fine", "coarse", "popularity", "speculation", "same")}
        for request in requests:
            for token in range(request.prompt, len(request.token)):
                for layer in range(d, LAYERS):
                    query = request.gate[token, : layer - d + 1].astype(float).ravel()
                    cosines = []
                    for text, at in store:
                        key = text.gate[at, : layer - d + 1].astype(float).ravel()
                        cosines.append(query @ key / np.linalg.norm(query) / np.linalg.norm(key))
                    text, at = store[int(np.argmax(cosines))]
                    seen = np.zeros(EXPERTS)
                    for earlier in range(token):
                        seen[request.experts[earlier, layer]] += 1
                    named = {
                        "fine": ranked(list(text.gate[at, layer])),
                        "coarse": ranked(list(seen + popularity[layer] / 2)),
                        "popularity": ranked(list(popularity[layer])),
                        "speculation": set(request.ahead[d][token, layer - d].tolist()),
                    }
                    for name, experts in named.items():
                        found[name].append(len(experts & set(request.experts[token, layer].tolist())) / TOP_K)
                    found["same"].append(float(text.token[at] == request.token[token]))
        expected = [np.mean(values) for values in found.values()]
        assert (*result.shares, result.same_token) == pytest.approx(tuple(expected))


def test_a_store_that_holds_the_answer_is_complete_and_of_the_same_token(texts: list[Routing]) -> None:
    for result in recall(texts[:1], texts[:1], DISTANCES):
        assert result.fine == 1.0
        assert result.same_token == 1.0


def test_speculation_that_names_what_runs_is_complete(texts: list[Routing]) -> None:
    text = texts[0]
    foreseen = Routing(text.token, text.gate, text.experts, text.prompt, {1: text.experts[:, 1:]})
    assert recall(texts[1:], [foreseen], (1,))[0].speculation == 1.0


def test_coarse_recall_counts_only_earlier_tokens_of_the_request() -> None:
    gate = np.full((3, 2, 4), 0.25, dtype=np.float32)
    history = Routing(np.zeros(3, int), gate, np.array([[[0], [0]]] * 3), prompt=0)
    request = Routing(np.zeros(3, int), gate, np.array([[[3], [3]]] * 3), 0, {1: np.zeros((3, 1, 1), int)})
    (result,) = recall([history], [request], (1,))
    assert result.popularity == 0.0
    assert result.coarse == pytest.approx(2 / 3)  # the first token has no counts yet


@pytest.mark.parametrize("distance", [0, LAYERS])
def test_a_distance_without_a_layer_is_refused(texts: list[Routing], distance: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 3"):
        recall(texts[:1], texts[1:], (distance,))


def test_the_nearest_map_is_sought_with_the_layers_so_far() -> None:
    stored = np.array([[[1, 0], [0, 1]], [[0.8, 0.2], [1, 0]]], dtype=np.float32)
    query = np.array([[[1, 0], [1, 0]]], dtype=np.float32)
    assert nearest_maps(query, stored).tolist() == [[0, 1]]  # the second layer changes which is nearest


def test_a_sample_is_drawn_from_all_texts_in_their_order(texts: list[Routing]) -> None:
    whole = sample(texts, 1000, seed=0)
    assert np.array_equal(whole.gate, np.concatenate([text.gate for text in texts]).astype(np.float32))
    few = sample(texts, 10, seed=0)
    places = [int(np.flatnonzero((whole.gate == gate).all(axis=(1, 2)))[0]) for gate in few.gate]
    assert places == sorted(set(places))
    assert len(places) == 10
    assert np.array_equal(few.token, whole.token[places])
    assert np.array_equal(few.experts, whole.experts[places])


def test_the_chance_of_the_same_token_is_the_mean_over_queries() -> None:
    gate, experts = np.zeros((4, 1, 2), np.float16), np.zeros((4, 1, 1), int)
    store = Routing(np.array([7, 7, 7, 2]), gate, experts, 0)
    request = Routing(np.array([7, 2, 9, 7]), gate, experts, 1)
    assert same_token_by_chance(store, [request]) == pytest.approx((0.25 + 0 + 0.75) / 3)


def test_load_sums_to_one_in_each_layer_and_ties_go_to_the_lower_index(texts: list[Routing]) -> None:
    assert expert_load(texts).sum(axis=1) == pytest.approx(np.ones(LAYERS))
    assert top(np.array([0.2, 0.5, 0.5, 0.2]), 3).tolist() == [1, 2, 0]
