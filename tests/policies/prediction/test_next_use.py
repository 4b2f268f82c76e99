"""When experts are demanded next, by the known future of each request."""

from dataclasses import replace

import numpy as np

from policies.prediction.next_use import NextUse
from sim.engine.batching import fixed_batches
from tests.support.builders import KnownFuture, request_of, setup_of, shape

MODEL = shape(1, 4, top_k=1)


def next_uses(requests, batch_size):
    """What `NextUse.later` says in each iteration: iterations to the next use of each expert."""
    next_use = NextUse()
    next_use.start(replace(setup_of(MODEL), future=KnownFuture(MODEL, requests)))
    answer = []
    for step in fixed_batches(requests, batch_size):
        next_use.advance(step.batch)
        answer.append(next_use.later.tolist())
    return answer


def served(*experts):
    """Requests of decode steps that demand one expert each."""
    return [request_of([[[expert]] for expert in each], MODEL, number=number) for number, each in enumerate(experts)]


def test_one_at_a_time_the_next_use_is_exact():
    never = np.inf
    assert next_uses(served([0, 1], [2, 0]), 1) == [
        [3, 1, 2, never],
        [2, never, 1, never],
        [1, never, never, never],
        [never] * 4,
    ]


def test_a_request_of_the_batch_that_has_ended_does_not_come_again():
    """Request 1 ends before request 0, with which it began; what it used is only used by those that follow both."""
    never = np.inf
    assert next_uses(served([0, 0, 0], [1]), 2)[1:] == [[1, never, never, never], [never] * 4]
    assert next_uses(served([0, 0, 0], [1], [2, 1]), 2)[1:3] == [[1, 3, 2, never], [never, 2, 1, never]]
