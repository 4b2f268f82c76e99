"""The tables of a profile from times of passes that are made up, so that the answers are known."""

import pytest

from sim.hardware.parts import Contention
from tests.support.builders import request_of, shape
from tests.support.in_memory import Setting, simulate
from tests.support.profiles import flat_profile
from tests.support.trace_helpers import small_shape
from validate.calibration import fits
from validate.calibration.machine_profile import summary
from validate.calibration.stopwatch import LayerTimes, PassTimes

MS = 1e-3
NO_CONTENTION = Contention()
LAYERS, EXPERT, OVERHEAD, HEAD, LEAD = 3, 0.5 * MS, 0.1 * MS, 2.0 * MS, 0.25 * MS


def dense_s(tokens: int, attended: int) -> float:
    return (1.0 + 0.1 * tokens + 0.01 * attended) * MS


def one_pass(begun_s, *, requests=1, tokens=1, first=False, attended=1, copy_s=0.0, misses=0):
    """A pass of two experts a layer, the last `misses` of which are copied first."""
    one = PassTimes(requests, tokens, first, begun_s)
    now = begun_s + LEAD
    for _ in range(LAYERS):
        now += dense_s(tokens, attended)
        times = LayerTimes(gated_s=now, given_s=[], computed_s=[], hits=2 - misses)
        now += OVERHEAD  # deciding
        begin = now
        for expert in range(2):
            arrived = begin + max(0, expert + 1 - times.hits) * copy_s
            now = max(now, arrived)
            times.given_s.append(now)
            now += EXPERT
            times.computed_s.append(now)
        times.over_s = now
        one.layers.append(times)
    one.ended_s = now
    return one


def generation(begun_s, prompt, new_tokens=4, requests=1):
    """A prefill and decode steps, one after the other with `HEAD` between."""
    passes, context = [], prompt
    for step in range(new_tokens):
        first = step == 0
        tokens = requests * (prompt if first else 1)
        attended = requests * (prompt * (prompt + 1) // 2 if first else context)
        passes.append(one_pass(begun_s, requests=requests, tokens=tokens, first=first, attended=attended))
        begun_s = passes[-1].ended_s + HEAD
        context += 1
    return passes


def test_attention_is_split_into_tokens_and_positions():
    passes = [one for prompt in (1, 8, 64) for one in generation(0.0, prompt)]
    table, per_position = fits.dense(passes)
    assert per_position == pytest.approx(0.01 * MS)
    assert table.sizes == (1, 8, 64)
    assert table.seconds == pytest.approx([1.1 * MS, 1.8 * MS, 7.4 * MS])


def test_batches_attend_per_request():
    passes = [
        one for prompt, requests in ((4, 1), (64, 1), (16, 3)) for one in generation(0.0, prompt, requests=requests)
    ]
    table, per_position = fits.dense(passes)
    assert per_position == pytest.approx(0.01 * MS)
    assert dict(zip(table.sizes, table.seconds, strict=True))[3] == pytest.approx(1.3 * MS)
    assert dict(zip(table.sizes, table.seconds, strict=True))[48] == pytest.approx(5.8 * MS)


def test_noise_that_hides_the_slope_leaves_none():
    passes = [*generation(0.0, 1, new_tokens=2), one_pass(1.0, attended=1)]
    passes[1].layers[0].over_s -= MS  # the earlier context seems the slower one
    passes[1].layers[1].over_s -= MS
    assert fits.dense(passes)[1] == 0.0


def test_the_head_is_the_time_between_passes_and_before_the_first_layer():
    table = fits.head([*generation(0.0, 5), *generation(9.0, 5, requests=4)])
    assert table.sizes == (1, 4)
    assert table.seconds == pytest.approx([HEAD + LEAD] * 2)


def test_the_pause_between_two_generations_is_not_counted():
    assert fits.head([*generation(0.0, 5), *generation(99.0, 5)]).seconds == pytest.approx([HEAD + LEAD])


def test_expert_and_bookkeeping():
    layers = [times for one in generation(0.0, 1) for times in one.layers]
    assert fits.expert_s(layers) == pytest.approx(EXPERT)
    assert fits.overhead_s(layers) == pytest.approx(OVERHEAD)


def latency_s(layers, moved_s, contention=NO_CONTENTION):
    return fits.copy_latency_s(layers, EXPERT, OVERHEAD, moved_s, contention)


@pytest.mark.parametrize("copy_s", [0.2 * MS, 0.5 * MS, 3 * MS])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_latency_is_found_with_which_the_simulators_rule_gives_the_layers_duration(copy_s, share):
    layers = one_pass(0.0, copy_s=copy_s, misses=2).layers
    assert latency_s(layers, share * copy_s) == pytest.approx((1 - share) * copy_s, abs=1e-9)


def test_time_explained_by_contention_is_not_latency():
    """Two copies of 1 ms and two experts of 0.5 ms: the first expert is computed beside the second copy.

    Copies are half as fast meanwhile, so of the second one 0.25 ms are done after 0.5 ms: 1 + 0.5 + 0.75 + 0.5 ms.
    """
    contention = Contention(copy_slowdown=2.0)
    assert fits.layer_s(0, 2, EXPERT, MS, contention, 0.0) == pytest.approx(2.75 * MS)
    layers = one_pass(0.0, copy_s=(2.75 * MS - EXPERT) / 2, misses=2).layers
    assert latency_s(layers, MS, contention) == pytest.approx(0.0, abs=1e-9)
    assert latency_s(layers, MS) == pytest.approx(0.125 * MS, abs=1e-9)


def test_a_copy_behind_a_hit_shows_only_the_time_that_the_hit_does_not_hide():
    visible = one_pass(0.0, copy_s=3 * MS, misses=1).layers
    assert latency_s(visible, 1 * MS) == pytest.approx(2 * MS, abs=1e-9)
    hidden = one_pass(0.0, copy_s=0.2 * MS, misses=1).layers
    assert latency_s(hidden, 0.1 * MS) <= EXPERT * 1.0001


def test_layers_without_a_copy_say_nothing_of_copies():
    layers = one_pass(0.0, copy_s=2 * MS, misses=2).layers
    assert latency_s([*layers, *one_pass(1.0).layers], 0.5 * MS) == pytest.approx(1.5 * MS, abs=1e-9)


def test_bytes_that_take_longer_than_the_layer_leave_no_latency():
    assert latency_s(one_pass(0.0, copy_s=1 * MS, misses=2).layers, 5 * MS) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("latency", [0.0, 0.3 * MS, 2 * MS])
@pytest.mark.parametrize(("hits", "misses"), [(0, 1), (0, 4), (1, 1), (2, 2), (3, 5)])
@pytest.mark.parametrize("slower", [(1.0, 1.0), (3.0, 1.0), (1.0, 2.0), (1.7, 1.3)])
def test_the_rule_of_a_layer_is_the_engines(latency, hits, misses, slower):
    """The second of two tokens finds `hits` of its experts, and lacks as many as the rule says."""
    contention, moved = Contention(compute_slowdown=slower[0], copy_slowdown=slower[1]), 0.7 * MS
    model = shape(1, 16, top_k=hits + misses)
    first = [*range(hits + misses)]
    second = [*range(hits), *range(hits + misses, hits + 2 * misses)]
    takes = {"dense": MS, "expert": EXPERT, "head": MS, "copy": latency + moved}
    profile = flat_profile(model, seconds=takes, copy_latency_s=latency, driving_s=0.0, contention=contention)
    setting = Setting(model=model, hardware=profile, cache_experts=16)
    run = simulate("lru", setting, [request_of([[first], [second]], model)])
    took_s = run.iterations["end_s"].iloc[1] - run.iterations["start_s"].iloc[1]
    assert took_s == pytest.approx(2 * MS + fits.layer_s(hits, misses, EXPERT, moved, contention, latency), rel=1e-9)


def test_the_slowest_repeat_is_compared_with_the_fastest() -> None:
    layers = [LayerTimes(gated_s=0, given_s=[0], computed_s=[seconds], hits=1) for seconds in (2, 2, 2, 2, 3, 3, 2, 2)]
    assert fits.slowest_over_fastest(layers, 4) == 1.5


def test_the_printed_figures_fit_into_100_columns() -> None:
    measured = {"copy_bytes_per_s": 12.5e9, "slowest_over_fastest_repeat": 1.25}
    lines = summary(flat_profile(small_shape(), measured=measured)).splitlines()
    assert any(line.split()[:2] == ["repeats", "1.25"] for line in lines)
    assert max(map(len, lines)) <= 100
