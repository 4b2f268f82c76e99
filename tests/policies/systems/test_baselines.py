"""The paper's baselines: for each a trace on which its rule alone decides, and one on which it must lose.

The hand-made traces run one expert per token and layer on one GPU with two slots: one for the expert that runs, one for
the expert that is on its way, so that nothing is left over from the iteration before unless the comment says so.
"""

from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from policies.cache.expert_cache import ExpertCache
from policies.prediction.activation_matrices import ActivationMatrices
from policies.prediction.speculation import Speculator, StridePredictor
from policies.registry import make_policy
from policies.systems.moe_infinity import ActivationMatrixPrefetcher
from policies.types import Search
from sim.engine.batching import fixed_batches, gates_of
from sim.inputs import check_columns
from tests.support.builders import machine, random_requests, request_of, setup_of, shape, with_lookahead
from tests.support.in_memory import Setting, simulate
from tests.support.slow_cases import slow_but

BASELINES = (
    "deepspeed",
    "mixtral-offloading",
    "mixtral-offloading-released",
    "moe-infinity",
    "moe-infinity-code",
    "promoe",
    "promoe,chunk_bytes=7",
)
FAST = machine(bytes_per_s=1e9, free_search=True)  # a copy takes 24 ns, attention over 1 µs


def run(spec, model, requests, history=None, *, experts=2, hardware=FAST, **setting):
    setting = Setting(model=model, hardware=hardware, cache_experts=experts, check=True, log=True, **setting)
    return simulate(spec, setting, requests, history=history)


def one_each(tokens, model, number=0):
    """A request that runs one expert per token and layer, `[tokens][L]`."""
    return request_of([[[expert] for expert in layers] for layers in tokens], model, number=number)


def planned(run):
    """(layer, experts) of each plan, in order."""
    return [(row.layer, list(row.experts)) for row in run.log.rows if row.call == "plan"]


def counted(run):
    return run.counts.hits, run.counts.late, run.counts.misses


# ---- MoE-Infinity ----------------------------------------------------------------------------------------------------


def test_moe_infinity_follows_the_past_request_whose_counts_are_nearest():
    """History: A ran 0, 1, 1 three times, B ran 2, 3, 3 once. The request runs 2, 3, 3.

    Layer 0: A's expert 0 is the most popular, 3 to 1; a MISS. Its gate says 2: the cosine with B is 1/√3, with A 0. So
    3 is planned for layer 1, and again for layer 2: both HIT, as prefetch is synchronous.
    """
    model = shape(3, 4, top_k=1)
    history = [one_each([[0, 1, 1]] * 3, model), one_each([[2, 3, 3]], model, 1)]
    result = run("moe-infinity,prefetch_distance=1", model, [one_each([[2, 3, 3]], model, 2)], history)
    assert planned(result) == [(0, [0]), (1, [3]), (2, [3])]
    assert counted(result) == (2, 0, 1)


def test_moe_infinity_plans_each_of_the_next_layers():
    model = shape(4, 4, top_k=1)
    history = [one_each([[2, 3, 1, 0]], model)]
    result = run("moe-infinity,prefetch_distance=2", model, [one_each([[2, 3, 1, 0]], model, 1)], history, experts=4)
    assert planned(result) == [(0, [2]), (1, [3]), (1, [3]), (2, [1]), (2, [1]), (3, [0]), (3, [0])]
    assert counted(result) == (4, 0, 0)


def test_moe_infinity_loses_where_iterations_of_a_request_differ():
    """A request that runs 000, 111, 222, 333 in turn: its counts are flat, so expert 0 is always planned: 3 of 12 hit.

    One record per iteration tells them apart after layer 0: FineMoE hits 8 of 12.
    """
    model = shape(3, 4, top_k=1)
    past, request = (one_each([[n] * 3 for n in range(4)], model, number) for number in range(2))
    coarse, fine = (
        run(f"{name},prefetch_distance=1", model, [request], [past]) for name in ("moe-infinity", "finemoe")
    )
    assert counted(coarse) == (3, 0, 9)
    assert counted(fine) == (8, 0, 4)


def test_moe_infinity_waits_for_its_prediction():
    """A search takes 1 µs and more: the experts of a layer that was searched from are computed that much later."""
    model = shape(2, 4, top_k=1)
    request = one_each([[0, 1]] * 3, model)
    hardware = machine(bytes_per_s=float("inf"))
    blocked = run("moe-infinity,prefetch_distance=1", model, [request], [request], hardware=hardware, experts=8)
    search_s = hardware.cost(model).search_s(Search("match", 0, 1, 8, 1))
    assert blocked.iterations["wait_s"].tolist() == pytest.approx([search_s] * 3)


def test_moe_infinity_learns_a_request_when_it_ends_and_notes_that_it_began_empty():
    model = shape(2, 4, top_k=1)
    requests = [one_each([[2, 3]] * 2, model, number) for number in range(2)]
    result = run("moe-infinity,prefetch_distance=1", model, requests)
    assert "no history" in result.note
    assert planned(result)[0] == (0, [2])  # the second request's: nothing was planned for the first
    begun = [number for number, row in enumerate(result.log.rows) if row.call == "begin_iteration"]
    assert [row.call for row in result.log.rows].index("plan") > begun[2]


def test_moe_infinity_plans_the_experts_of_every_request_of_a_batch():
    """A ran 0 1, B ran 2 3; two requests run like them, together: layer 1 gets the expert of either."""
    model = shape(2, 4, top_k=1)
    past = [one_each([[0, 1]], model), one_each([[2, 3]], model, 1)]
    both = [one_each([[2, 3]], model, 2), one_each([[0, 1]], model, 3)]
    result = run("moe-infinity,prefetch_distance=1", model, both, past, experts=4, batch_size=2)
    assert planned(result) == [(0, [0]), (1, [1, 3])]
    assert counted(result) == (3, 0, 1)


def test_moe_infinity_plans_by_the_matrix_that_has_replaced_another():
    """With room for one matrix, each request is planned by the request before it."""
    model = shape(2, 4, top_k=1)
    ran = [[0, 1], [2, 3], [1, 0]]
    past, *requests = (one_each([each], model, number) for number, each in enumerate([*ran, ran[0]]))
    result = run("moe-infinity,prefetch_distance=1,capacity=1", model, requests, [past])
    assert [experts for layer, experts in planned(result) if layer == 1] == [[expert] for _, expert in ran]


def prefill_and_decode(model, number, prefill, token):
    """One expert per token and layer: a prefill `[tokens][L]` and one token `[L]`."""
    tokens = [[[expert] for expert in layers] for layers in [*prefill, token]]
    return request_of(tokens, model, number=number, prefill_tokens=len(prefill))


def test_moe_infinity_plans_every_expert_with_a_count_in_a_prefill_and_top_k_in_decode():
    """The past request ran 0, 1, 1 in layer 0 and 2, 3, 3 in layer 1; the second one runs its prefill again.

    Its prefill plans both experts of each layer, its token, with one expert per layer, the more frequent one.
    """
    model = shape(2, 5, top_k=1)
    past, request = (prefill_and_decode(model, number, [[0, 2], [1, 3]], [1, 3]) for number in range(2))
    result = run("moe-infinity,prefetch_distance=1", model, [request], [past], experts=4)
    assert planned(result) == [(0, [0, 1]), (1, [2, 3]), (0, [1]), (1, [3])]
    assert counted(result) == (6, 0, 0)


def test_moe_infinity_plans_an_expert_that_one_of_a_hundred_prefill_tokens_ran():
    model = shape(2, 5, top_k=1)
    past, request = (prefill_and_decode(model, number, [[0, 2]] * 99 + [[1, 3]], [0, 2]) for number in range(2))
    result = run("moe-infinity,prefetch_distance=1", model, [request], [past], experts=4)
    assert planned(result)[:2] == [(0, [0, 1]), (1, [2, 3])]


def test_moe_infinity_as_its_code_queues_all_layers_ahead_by_count_and_linear_decay():
    """The past request ran in layer 1 expert 0 always, in layer 2 expert 1 three times of four, else 2.

    The gate of layer 0 plans both layers. Keys: layer 1 1 · (1 − 1/4); layer 2 3/4 · (1 − 2/4) and 1/4 · (1 − 2/4). The
    gate of layer 1 plans layer 2 anew. Nothing guides layer 0, and no layer waits for what it does not run.
    """
    model = shape(3, 4, top_k=1)
    past = one_each([[0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 2]], model)
    slow = machine(bytes_per_s=1e6, free_search=True)  # a copy takes 24 µs
    result = run("moe-infinity-code", model, [one_each([[0, 0, 1]], model, 1)], [past], experts=12, hardware=slow)
    assert planned(result) == [(1, [0]), (2, [1, 2]), (2, [1, 2])]
    order = [(row.layer, row.expert) for row in result.log.rows if row.call == "next_copy" and row.slot >= 0]
    assert order == [(0, 0), (1, 0), (2, 1)]
    assert counted(result) == (0, 2, 1)


@pytest.mark.parametrize(("first", "order"), [(9, [(1, 0), (2, 0)]), (3, [(2, 0), (1, 0)])])
def test_the_code_of_moe_infinity_copies_a_farther_layer_first_if_its_share_outweighs_its_decay(first, order):
    """Layer 1 runs expert 0 in `first` of ten tokens, layer 2 always; with L = 3 they weigh 3/4 and 2/4 of their share.

    By eq. 10 they would weigh 1 and 1/2: 0.3 against 0.5, 0.9 against 0.5, the same order. With 6 of ten it is 0.45
    against 0.5 here and 0.6 against 0.5 there.
    """
    model = shape(3, 4, top_k=1)
    past = one_each([[0, 0 if n < first else n % 3 + 1, 0] for n in range(10)], model)
    copied = [each for each in copies_after(past, model) if each in order]
    assert copied == order
    sixth = one_each([[0, 0 if n < 6 else n % 3 + 1, 0] for n in range(10)], model)
    assert [each for each in copies_after(sixth, model) if each in order] == [(2, 0), (1, 0)]


def copies_after(past, model):
    """The prefetches after the gate of layer 0, in order, where layer 0 computes for long."""
    prefetcher = make_policy("moe-infinity-code")
    prefetcher.start(setup_of(model, [past]))
    cache = ExpertCache(model, prefetcher.evictor, slots=[12], copy_key=prefetcher.copy_key)
    step = next(iter(fixed_batches([past], 1)))
    prefetcher.prefetcher.on_request_start(0)
    gate = gates_of(step)[0]
    cache.begin_iteration(step.batch, 0.0)
    cache.demand(0, [0], 0.0)
    (search,) = prefetcher.prefetcher.on_gate(step.batch, gate)
    for plan in prefetcher.prefetcher.on_found(step.batch, 0, search, prefetcher.prefetcher.search(search)):
        cache.plan(plan, 0.0)
    copies = []
    while (copy := cache.devices[0].next_copy(0.0)) is not None:
        cache.devices[0].copied(copy, 0.0)
        copies.append(divmod(copy.number, model.experts))
    return copies


def test_moe_infinity_as_its_code_does_not_wait_for_a_wrong_prefetch():
    """A copy takes 24 µs in four chunks. The past says 3 for layer 1, the request runs 1.

    The paper's form waits for 3 and then for 1; in the code's form the demand for 1 waits for one chunk of 3 at most.
    """
    model = shape(2, 4, top_k=1)
    past, request = one_each([[0, 3]], model), one_each([[0, 1]], model, 1)
    slow = machine(bytes_per_s=1e6, free_search=True)
    paper, code = (
        run(f"{spec},chunk_bytes=6", model, [request], [past], hardware=slow, experts=8)
        for spec in ("moe-infinity,prefetch_distance=1", "moe-infinity-code")
    )
    assert counted(paper) == (1, 0, 1)
    assert counted(code) == (0, 0, 2)
    assert 18e-6 - 1e-9 <= paper.makespan_s - code.makespan_s <= 24e-6


def test_a_plan_that_is_too_late_for_a_layer_is_dropped_for_that_layer():
    model = shape(4, 4, top_k=1)
    past = one_each([[2, 3, 1, 0]] * 2, model)
    for prefetcher in (ActivationMatrixPrefetcher(prefetch_distance=2), Speculator(stride=2)):
        prefetcher.start(setup_of(model, [past], rng=np.random.default_rng(0)))
        prefetcher.on_request_start(0)
        (step, _) = fixed_batches([past], 1)
        (search,) = prefetcher.on_gate(step.batch, gates_of(step)[0])
        found = prefetcher.search(search)
        for layer_now, layers in [(0, [1, 2]), (1, [2]), (2, []), (4, [])]:
            assert [plan.layer for plan in prefetcher.on_found(step.batch, layer_now, search, found)] == layers


def test_a_full_collection_replaces_the_matrix_that_was_matched_least():
    matrices = ActivationMatrices(1, 3, capacity=2)
    for counts in ([1, 0, 0], [0, 1, 0]):
        matrices.add(np.array([counts], np.float32))
    matrices.matched(np.array([0, 0]))
    matrices.add(np.array([[0, 3, 3]], np.float32))
    assert matrices.rows.tolist() == [[[1, 0, 0]], [[0, 0.5, 0.5]]]
    np.testing.assert_allclose(matrices.products(np.array([[2, 1, 0]], np.float32)), [2, 0.5**0.5], rtol=1e-6)


def test_matching_layer_by_layer_equals_the_cosine_of_whole_matrices():
    model = shape(3, 5)
    rng = np.random.default_rng(4)
    past = random_requests(model, rng, requests=4, decoded=5)
    (request,) = random_requests(model, rng, requests=1, decoded=3, prefill_tokens=4)
    prefetcher = ActivationMatrixPrefetcher(prefetch_distance=1)
    prefetcher.start(setup_of(model, past, rng=rng))
    prefetcher.on_request_start(0)
    counts = np.zeros((3, 5))
    stored = [
        np.stack([np.bincount(each.experts[:, layer].ravel(), minlength=5) for layer in range(3)]) for each in past
    ]
    for step in fixed_batches([request], 1):
        for gate in gates_of(step):
            np.add.at(counts[gate.layer], gate.experts.ravel(), 1)
            for search in prefetcher.on_gate(step.batch, gate):
                found = prefetcher.search(search)
                cosines = [np.vdot(counts, each) / np.linalg.norm(counts) / np.linalg.norm(each) for each in stored]
                assert found.index.tolist() == [int(np.argmax(cosines))]
                assert found.score[0] == pytest.approx(max(cosines), rel=1e-5)


# ---- ProMoE ----------------------------------------------------------------------------------------------------------


def following(first, layers):
    """What runs if each layer runs the expert after that of the layer before, of four."""
    return [(first + layer) % 4 for layer in range(layers)]


def test_promoe_learns_the_experts_that_follow_a_gate():
    """In the history each layer runs the expert after that of the layer before.

    Two tokens of three layers: layers 1 and 2 HIT, layer 0 is a MISS, as nothing guides it.
    """
    model = shape(3, 4, top_k=1)
    past = one_each([following(n, 3) for n in (0, 1, 2, 3)] * 3, model)
    request = one_each([following(n, 3) for n in (3, 1)], model, 1)
    result = run("promoe,prefetch_distance=1", model, [request], [past])
    assert planned(result) == [(1, [0]), (2, [1]), (1, [2]), (2, [3])]
    assert counted(result) == (4, 0, 2)


def test_promoe_reaches_the_first_layers_by_shorter_strides():
    model = shape(4, 4, top_k=1)
    past = one_each([following(n, 4) for n in (0, 1, 2, 3)] * 3, model)
    result = run("promoe,prefetch_distance=2", model, [one_each([following(1, 4)], model, 1)], [past], experts=4)
    assert planned(result) == [(1, [2]), (2, [3]), (3, [0])]


def test_promoe_loses_where_the_layer_before_predicts_nothing():
    """Layer 1 always runs 0 and layer 2 what layer 0 ran, in the history more often 1 than 2. The request runs 2, 0, 2.

    From layer 1's gate 1 is the more probable: a MISS, where the trajectory tells FineMoE. Both miss layer 0.
    """
    model = shape(3, 4, top_k=1)
    past = one_each([[1, 0, 1], [1, 0, 1], [2, 0, 2]] * 3, model)
    request = one_each([[2, 0, 2]], model, 1)
    stride, fine = (run(f"{name},prefetch_distance=1", model, [request], [past]) for name in ("promoe", "finemoe"))
    assert counted(stride) == (1, 0, 2)
    assert counted(fine) == (2, 0, 1)


def test_promoe_prefers_the_later_router_s_own_answer():
    """The history says that 3 follows 2; the lookahead gate says, rightly, 1."""
    model = shape(2, 4, top_k=1)
    past = one_each([following(n, 2) for n in (0, 1, 2, 3)] * 3, model)
    request = with_lookahead(one_each([[2, 1]], model, 1), 1)
    spec = "promoe,prefetch_distance=1"
    plans = [planned(run(each, model, [request], [past])) for each in (spec, f"{spec},lookahead=false")]
    assert plans == [[(1, [1])], [(1, [3])]]


def test_a_demand_overtakes_promoe_s_prefetch_between_chunks():
    """A copy of 24 µs is under way when another expert is demanded: that waits for 6 µs at most instead of 24."""
    model = shape(3, 4, top_k=1)
    past = one_each([following(n, 3) for n in (0, 1, 2, 3)] * 3, model)
    request = one_each([[0, 3, 0]] * 8, model, 1)  # after 0 never comes 3: always wrong for layer 1
    slow = machine(bytes_per_s=1e6, free_search=True)
    whole, chunks = (
        run(f"promoe,prefetch_distance=1,chunk_bytes={size}", model, [request], [past], hardware=slow, experts=3)
        for size in (24, 6)
    )
    assert chunks.counts.cancelled + chunks.counts.late > 0
    assert chunks.makespan_s < whole.makespan_s


def test_promoe_without_history_predicts_nothing_and_notes_it():
    model = shape(3, 4, top_k=1)
    for spec, part in [
        ("promoe", "only where the trace has lookahead"),
        ("promoe,lookahead=false", "predicts nothing"),
    ]:
        result = run(spec, model, [one_each([[0, 1, 2]] * 2, model)])
        assert result.counts.prefetched == 0
        assert "no history" in result.note
        assert part in result.note


def test_a_speculation_costs_the_reading_of_its_weights():
    """A learned map has 4 × (4 + 1) numbers, a router 4 × h = 4 × 2; from layer 0 one for each stride."""
    model = shape(4, 4, top_k=1)
    past = one_each([following(n, 4) for n in (0, 1, 2, 3)], model)
    speculator = Speculator(stride=3)
    speculator.start(setup_of(model, [past], rng=np.random.default_rng(0)))
    (step,) = fixed_batches([with_lookahead(one_each([following(0, 4)], model), 1)], 1)
    asked = [search for gate in gates_of(step)[:1] for search in speculator.on_gate(step.batch, gate)]
    assert [(each.kind, each.rows, each.dims, each.entries) for each in asked] == [
        ("lookahead", 1, 2, 4),
        ("speculate", 1, 5, 4 * 2),
    ]


def test_a_learned_map_is_the_ridge_regression_of_the_normal_equations():
    model = shape(3, 4)
    rng = np.random.default_rng(6)
    (past,) = random_requests(model, rng, requests=1, decoded=40)
    predictor = StridePredictor(regularisation=0.5, train_tokens=100)
    predictor.learn([past], model, [(0, 2)], rng)
    roots = np.sqrt(past.gate[:, 0].astype(np.float64))
    ran = np.zeros((40, 4))
    np.put_along_axis(ran, past.experts[:, 2].astype(np.int64), 1, axis=1)
    centred = roots - roots.mean(axis=0)
    slopes = np.linalg.solve(centred.T @ centred + 0.5 * np.eye(4), centred.T @ (ran - ran.mean(axis=0)))
    expected = np.clip(centred @ slopes + ran.mean(axis=0), 0, 1)
    found = predictor.probabilities(0, 2, past.gate[:, 0].astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=2e-4)


# ---- Mixtral-Offloading ----------------------------------------------------------------------------------------------


def test_mixtral_offloading_has_the_next_layer_when_its_router_was_right():
    """No layer looks ahead to layer 0: a MISS. Layers 1 and 2 were looked at one layer early: HIT."""
    model = shape(3, 4, top_k=1)
    request = with_lookahead(one_each([[0, 1, 2], [3, 2, 1]], model), 1, 2)
    result = run("mixtral-offloading", model, [request])
    assert planned(result) == [(1, [1]), (2, [2]), (1, [2]), (2, [1])]
    assert counted(result) == (4, 0, 2)


def test_mixtral_offloading_loses_time_where_the_early_router_is_wrong():
    """A copy takes 24 µs. Layers 1 and 2 wait for a wrong expert and then for the right one; LRU waits for one only."""
    model = shape(3, 4, top_k=1)
    request = with_lookahead(one_each([[0, 1, 2]] * 4, model), 1)
    wrong = replace(request, lookahead={1: np.roll(request.lookahead[1], 1, axis=2)})
    slow = machine(bytes_per_s=1e6, free_search=True)
    looked, lru = (run(spec, model, [wrong], hardware=slow) for spec in ("mixtral-offloading", "lru"))
    assert counted(looked) == counted(lru) == (0, 0, 12)
    assert looked.makespan_s > lru.makespan_s + 8 * 20e-6


def test_mixtral_offloading_names_the_missing_column():
    model = shape(3, 4, top_k=1)
    with pytest.raises(UserError, match="lookahead_1"):
        run("mixtral-offloading", model, [with_lookahead(one_each([[0, 1, 2]], model), 2)])
    with pytest.raises(UserError, match="lookahead_1"):
        check_columns("mixtral-offloading", embedding=True, lookahead=(2,), where="a trace")
    check_columns("mixtral-offloading", embedding=False, lookahead=(1,), where="a trace")


def test_mixtral_offloading_as_released_keeps_the_slots_of_each_layer_to_itself():
    """Four slots, two for each layer. Layer 0 cycles through three experts, layer 1 runs 0 and then always 1.

    LRU over both layers gives the slot of expert 0 of layer 1 to the cycle, which then fits: from the fifth token on
    all are hits. Apart, the cycle never fits, and layer 1 misses twice.
    """
    model = shape(2, 4, top_k=1)
    request = one_each([[token % 3, min(token, 1)] for token in range(8)], model)
    released, lru = (run(spec, model, [request], experts=4) for spec in ("mixtral-offloading-released", "lru"))
    assert counted(released) == (6, 0, 8 + 2)
    assert counted(lru) == (4 + 6, 0, 4 + 2)
    assert planned(released) == []


# ---- DeepSpeed -------------------------------------------------------------------------------------------------------


def test_deepspeed_never_misses_and_copies_whole_layers():
    """Two layers of four experts, room for four: each layer drops the other, so each turn copies 4, whatever runs."""
    model = shape(2, 4, top_k=1)
    result = run("deepspeed", model, [one_each([[0, 1], [2, 3], [1, 0]], model)], experts=4)
    assert counted(result) == (6, 0, 0)
    assert result.counts.copies == 3 * 2 * 4


def test_deepspeed_copies_only_absent_experts():
    """Room for five: the fifth slot keeps the expert that ran last in the layer before, which spares it one copy.

    Layer 0 copies 4, layer 1 copies 4 and drops what did not run of layer 0. From then on each turn finds one expert.
    """
    model = shape(2, 4, top_k=1)
    result = run("deepspeed", model, [one_each([[0, 1], [2, 3], [1, 0]], model)], experts=5)
    assert counted(result) == (6, 0, 0)
    assert result.counts.copies == 4 + 4 + 4 * 3


def test_deepspeed_loses_time_to_copying_on_demand():
    """A copy takes 24 µs: four of them before each layer, against one in it."""
    model = shape(2, 4, top_k=1)
    request = one_each([[0, 1], [2, 3], [1, 0]], model)
    slow = machine(bytes_per_s=1e6)
    whole, lru = (run(spec, model, [request], experts=4, hardware=slow) for spec in ("deepspeed", "lru"))
    assert whole.makespan_s > 3 * lru.makespan_s


@pytest.mark.parametrize("gpus", [1, 2])
def test_deepspeed_with_less_room_than_a_layer_demands_the_rest(gpus):
    """Of four experts the first two fit; the router wants 2 and 3: two misses each time, nothing stands still."""
    model = shape(2, 4, top_k=2)
    result = run("deepspeed", model, [request_of([[[2, 3]] * 2] * 3, model)], experts=2, hardware=machine(gpus))
    assert counted(result) == (0, 0, 12)


# ---- all of them -----------------------------------------------------------------------------------------------------

MODEL = shape(4, 6)
REQUESTS = [
    with_lookahead(recorded, 1, 3)
    for recorded in random_requests(MODEL, np.random.default_rng(31), requests=7, decoded=6, prefill_tokens=7, hidden=3)
]
HISTORY, TEST = REQUESTS[:3], REQUESTS[3:]


# GPUs, experts in the cache, batch size, and whether there is a history
PLACES = [
    (*cache, *batch)
    for cache in ((1, 2), (3, 3), (1, 7), (3, 14), (1, 24), (3, 24))
    for batch in ((1, True), (3, True), (3, False))
]


@pytest.mark.parametrize(
    ("gpus", "experts", "batch_size", "learned"), slow_but(PLACES, (1, 2, 1, True), (3, 14, 3, False))
)
@pytest.mark.parametrize("policy", BASELINES)
def test_a_baseline_holds_the_invariants(policy, gpus, experts, batch_size, learned):
    """From the smallest legal cache, much smaller than a prefill's layer, to room for all experts."""
    history = HISTORY if learned else None
    hardware = machine(gpus, bytes_per_s=2e6)
    result = run(policy, MODEL, TEST, history, experts=experts, hardware=hardware, batch_size=batch_size)
    again = run(policy, MODEL, TEST, history, experts=experts, hardware=hardware, batch_size=batch_size)
    assert result.counts.prefetched > 0 or experts == MODEL.total_experts or policy.endswith("released")
    assert result.log.rows == again.log.rows
    assert len(result.requests) == len(TEST)


@pytest.mark.parametrize("policy", BASELINES)
def test_a_baseline_runs_a_model_of_a_single_layer(policy):
    model = shape(1, 4)
    requests = [replace(each, lookahead={1: each.gate}) for each in random_requests(model, np.random.default_rng(0))]
    words = ",prefetch_distance=1" if policy == "moe-infinity" or policy.startswith("promoe") else ""
    assert len(run(policy + words, model, requests, requests).iterations) == 18


@pytest.mark.parametrize("policy", BASELINES)
def test_a_baseline_decides_alike_whatever_follows(policy):
    """Causality: until the last request begins, what it will be makes no difference."""
    logs = [
        run(policy, MODEL, [*TEST[:2], last], HISTORY, experts=8, hardware=machine(2, bytes_per_s=2e6)).log.rows
        for last in TEST[2:]
    ]
    change = next(n for n, pair in enumerate(zip(*logs, strict=False)) if pair[0] != pair[1])
    begun = [n for n, row in enumerate(logs[0]) if row.call == "begin_iteration"]
    assert change >= begun[14]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("moe-infinity,prefetch_distance=5", "distance: must be from 1 to 4, not 5"),
        ("moe-infinity,capacity=0", "capacity: must be at least 1, not 0"),
        ("promoe,prefetch_distance=0", "distance: must be from 1 to 4, not 0"),
        ("promoe,chunk_bytes=0", "chunk_bytes: must be 'whole', None or a whole number"),
        ("promoe,regularisation=0", "regularisation: must be a finite number above 0, not 0"),
        ("promoe,train_tokens=0", "train_tokens: must be at least 1, not 0"),
    ],
)
def test_an_impossible_setting_is_one_line(spec, problem):
    with pytest.raises(UserError, match=problem) as caught:
        run(spec, MODEL, TEST, HISTORY)
    assert "\n" not in str(caught.value)


def test_only_needed_columns_are_required():
    required = {name: make_policy(name).requires for name in BASELINES}
    assert required.pop("mixtral-offloading") == {"lookahead_1"}
    assert not any(required.values())
