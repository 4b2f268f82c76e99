"""Effects worked out by hand: the simulator against paper and pencil, on one decode step of one token."""

import pytest

from policies.cache.decision_log import DecisionLog
from policies.cache.invariants import InvariantChecker
from policies.cache.observed_cache import ObservedCache
from policies.evictors.recency import LeastRecentlyUsed
from policies.hooks import Hooks
from policies.types import Prefetch
from sim.engine.batching import fixed_batches
from sim.engine.contended_engine import engine_for
from sim.engine.recorder import Recorder
from sim.hardware.effects import Effects
from tests.support.builders import US, HandCost, request_of, scripted, setup_of, shape


class LinkCost(HandCost):
    """Attention takes 5 µs, an expert 4 µs, a copy 2 µs of latency and 1 µs for 3 bytes: 10 µs for an expert's 24."""

    def __init__(self, *, head_s=0.0, **effects):
        super().__init__()
        self.effects = Effects(**effects)
        self._head_s = head_s

    def head_s(self, rows):
        return self._head_s

    def copy_latency_s(self, size_bytes):
        return 2 * US

    def copy_s(self, size_bytes):
        return (2 + size_bytes / 3) * US


def run(demands, cost, *, slots, plan=(), later=None, **choices):
    """When each copy began and arrived, by layer and expert, and the end of the step, in µs; its parts in seconds.

    `plan` is made at the beginning, `later` plans at the gates of layers.
    """
    model = shape(len(demands), 4, top_k=len(demands[0]))
    plans = {(0, layer): made for layer, made in (later or {}).items()}
    policy = scripted({(0, -1): list(plan), **plans}, LeastRecentlyUsed(), **choices)
    policy.evictor.start(setup_of(model))
    log, recorder = DecisionLog(), Recorder()
    cache = ObservedCache(model, policy.evictor, slots=slots, observers=[log, InvariantChecker()])
    steps = fixed_batches([request_of([demands], model)], 1)
    engine_for(cost)(hooks=Hooks(policy), cache=cache, cost=cost, steps=steps, recorder=recorder).run()
    times = {}
    for row in log.rows:
        if row.call in ("next_copy", "copied") and row.slot >= 0:
            times.setdefault((row.layer, row.expert), []).append(round(row.time_s / US, 6))
    (parts,) = recorder.iterations().to_dict("records")
    return times, parts["end_s"] / US, parts


def test_copies_share_host_memory_while_their_bytes_move():
    """4 bytes/µs for two links of 3 bytes/µs each.

       0 A begins (a prefetch to GPU 0), its bytes move from 2 on, alone: 3 bytes/µs
       5 gate; B is demanded on GPU 1, its bytes move from 7 on. A has 9 bytes left, both get 2 bytes/µs
    11.5 A arrives; C is demanded on GPU 0 and begins. B has 15 left and is alone until C's bytes move
    13.5 B has 9 left, both get 2 bytes/µs
      18 B arrives, computed 18-22. C has 15 left, alone: 3 bytes/µs
      23 C arrives, computed 23-27
    """
    plan = [Prefetch(1, [0], [1.0])]
    times, end, _ = run([[0, 1], [0, 2]], LinkCost(host_bytes_per_s=4 / US), slots=[3, 2], plan=plan)
    assert times[1, 0] == [0, 11.5]
    assert times[0, 1] == [5, 18]
    assert times[0, 0] == [11.5, 23]
    # Layer 1: attention 27-32; its expert 2 alone on link 0, 32-42; both computed there, 0 before 2: 42-46.
    assert times[1, 2] == [32, 42]
    assert end == pytest.approx(46)


def test_a_copy_and_a_computation_on_one_gpu_slow_each_other_down():
    """Computing at half speed while bytes move, bytes at 2 instead of 3 bytes/µs while the GPU computes.

     0 attention of 5 µs, and a prefetch, whose bytes move from 2 on. 3 µs of attention are left: they take 6
     8 gate; 12 of its 24 bytes have moved, the others take 4 µs as nothing computes
    12 the demanded expert begins, bytes 14-22, computed 22-26
    26 attention 26-31, the prefetched expert is there, computed 31-35
    """
    cost = LinkCost(compute_slowdown=2.0, copy_slowdown=1.5)
    times, end, parts = run([[0], [1]], cost, slots=[2], plan=[Prefetch(1, [1], [1.0])])
    assert times == {(1, 1): [0, 12], (0, 0): [12, 22]}
    assert end == pytest.approx(35)
    assert (parts["hits"], parts["late"], parts["misses"]) == (1, 0, 1)


def test_a_copy_does_not_slow_down_another_gpu():
    """Attention of layer 0 runs on GPU 0, the prefetch goes to GPU 1: 5 µs and 10 µs, as if they were alone."""
    cost = LinkCost(compute_slowdown=2.0, copy_slowdown=1.5)
    times, end, _ = run([[0], [1]], cost, slots=[2, 2], plan=[Prefetch(1, [1], [1.0])])
    assert times == {(1, 1): [0, 10], (0, 0): [5, 15]}
    assert end == pytest.approx(15 + 4 + 5 + 4)


def test_attention_and_head_slow_down_on_the_gpus_of_their_layers():
    """Attention of layer 1 and the head run on GPU 1 of two, and 3 µs of head are slowed down as all computing is.

       0 attention on GPU 0
       5 gate of layer 0: its expert 5-15 to GPU 0, computed 15-19; b1 5-15 and b3 from 15 on to GPU 1
      17 bytes of b3 move, 6 of them until 19
      19 attention on GPU 1: the other 18 bytes take 9 µs, meanwhile 4.5 of 5 µs of attention are done
    28.5 gate of layer 1: b1 is there and computed on GPU 1; a1 begins to move there, bytes from 30.5 on
    30.5 2 of 4 µs are left and take 4, while 8 bytes move
    34.5 the head takes 6 µs, as the other 16 bytes take 8
    """
    cost = LinkCost(head_s=3 * US, compute_slowdown=2.0, copy_slowdown=1.5)
    later = {0: [Prefetch(1, [1, 3], [1.0, 0.5])], 1: [Prefetch(0, [1], [1.0])]}
    times, end, _ = run([[0], [1]], cost, slots=[2, 3], later=later)
    assert times == {(0, 0): [5, 15], (1, 1): [5, 15], (1, 3): [15, 28], (0, 1): [28.5]}
    assert end == pytest.approx(40.5)


def test_latency_does_not_slow_computing_under_contention():
    """An expert computes 15-19 while the next copy on its link has latency 15-17 and then bytes.

        5 gate: 0 and 1 are demanded on one GPU, 0 arrives at 15, 1 has its latency until 17
       17 2 of 4 µs of expert 0 are left: they take 4, as bytes move; until 21 there move 8 bytes
       21 expert 0 is done; 16 bytes at 3 bytes/µs
    26.33 expert 1 arrives and is computed in 4 µs
    """
    times, end, _ = run([[0, 1]], LinkCost(compute_slowdown=2.0, copy_slowdown=1.5), slots=[2])
    assert times[0, 0] == [5, 15]
    assert times[0, 1] == [15, pytest.approx(21 + 16 / 3)]
    assert end == pytest.approx(21 + 16 / 3 + 4)


def test_cpu_time_delays_computing_but_not_copies():
    """3 µs of CPU before attention, 2 µs for each of two experts.

     0 CPU 0-3, attention 3-8; the prefetch of expert 0 runs 0-10
     8 gate: 0 is late, and 1 is demanded, 10-20. CPU 8-12
    12 expert 0 has been there since 10: computed 12-16. Expert 1: 20-24
    """
    cost = LinkCost(layer_host_s=3 * US, expert_host_s=2 * US)
    times, end, parts = run([[0, 1]], cost, slots=[2], plan=[Prefetch(0, [0], [1.0])])
    assert times == {(0, 0): [0, 10], (0, 1): [10, 20]}
    assert end == pytest.approx(24)
    assert parts["overhead_s"] == pytest.approx(7 * US)
    assert parts["miss_wait_s"] + parts["late_wait_s"] == pytest.approx(4 * US)  # 12 + 2 · 4 = 20


def test_cpu_time_starts_after_the_prefetch_wait():
    """A layer waits for its prefetch until 10, then CPU 10-13, attention 13-18, CPU 18-20, the expert 20-24."""
    cost = LinkCost(layer_host_s=3 * US, expert_host_s=2 * US)
    times, end, parts = run([[0]], cost, slots=[2], plan=[Prefetch(0, [0], [1.0])], blocking_prefetch=True)
    assert times == {(0, 0): [0, 10]}
    assert end == pytest.approx(24)
    assert parts["prefetch_wait_s"] == pytest.approx(10 * US)
