"""Victims that are chosen several at a time are those that would be chosen one by one."""

import numpy as np
import pytest

from policies.cache.victims import Victims
from policies.systems.deepspeed import LastRun
from tests.support.random_runs import random_run
from tests.support.slow_cases import slow_but


class FirstRun(LastRun):
    """Drops what ran last, so that experts that are in use come first, and others have to be taken."""

    def touched(self, layer, experts, now_s):
        super().touched(layer, experts, now_s)
        numbers = layer * self.experts + np.asarray(experts, int)
        self.scores[numbers] *= -1


class Calls:
    """Notes every call on the cache with its answer."""

    def __init__(self):
        self.rows = []

    def called(self, cache, now_s, call, given, answer):
        self.rows.append((now_s, call, str(given), str(answer)))


def calls_of(evictor, seed):
    calls = Calls()
    run = random_run(seed, evictor=evictor, observers=[calls], copy_key=None)
    return calls.rows, run.cache.counts


@pytest.mark.parametrize("seed", slow_but(range(100), *range(10)))
@pytest.mark.parametrize("kind", [LastRun, FirstRun])
def test_a_steady_evictor_gives_the_same_calls_as_one_that_is_asked_for_each_victim(kind, seed):
    one_by_one = kind()
    one_by_one.steady = False
    assert calls_of(kind(), seed) == calls_of(one_by_one, seed)


def test_the_random_runs_choose_several_victims_at_once_and_some_that_are_not_certain_yet(monkeypatch):
    lengths = []
    run = Victims.run

    def noted(self, length, distance, now_s):
        slots = run(self, length, distance, now_s)
        lengths.append((length, len(slots)))
        return slots

    monkeypatch.setattr(Victims, "run", noted)
    for seed in range(10):
        calls_of(FirstRun(), seed)
    assert any(chosen > 1 for _, chosen in lengths)
    assert any(0 < chosen < wanted for wanted, chosen in lengths)
