"""Batches of requests, and the experts that each of their iterations demands."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TypeVar

import numpy as np

from policies.base import Prefetcher
from policies.executed import tokens_by_expert
from policies.types import Batch, Float, Gate, Int, RecordedRequest
from sim.engine.prediction_tape import PredictionTape

Array = TypeVar("Array", Float, Int)


@dataclass(slots=True)
class Step:
    """One iteration as the trace recorded it."""

    batch: Batch
    maps: Float  # [T, L, J] float32
    experts: Int  # [T, L, K] executed experts, -1 for none
    lookahead: dict[int, Float]  # {distance: [T, L, J]}
    demands: list[list[int]]  # the distinct experts of each layer, in rising order
    loads: list[list[int]] | None  # the tokens of each of these experts; None: one token each
    context: int  # cached positions of all requests after this iteration
    attended: int  # (token, position) pairs
    starting: Sequence[int]  # requests whose first iteration this is
    ending: Sequence[int]  # requests whose last iteration this is


def fixed_batches(requests: Iterable[RecordedRequest], size: int) -> Iterator[Step]:
    """The steps of offline runs as in the paper: `size` requests at a time, until the last of them has ended."""
    pending = iter(requests)
    number = 0
    while group := [_Replay(recorded) for recorded in islice(pending, size)]:
        running, begin = group, 0
        while running:
            together = _Together(running)
            end = min(replay.steps for replay in running)  # until a request leaves
            for step in range(begin, end):
                yield _step(number, step, together)
                number += 1
            running, begin = [replay for replay in running if replay.steps > end], end


def predicted(steps: Iterator[Step], prefetcher: Prefetcher, tape: PredictionTape | None = None) -> Iterator[Step]:
    """The same steps. A prefetcher that predicts in blocks does so before the first step of each block.

    A tape records the predictions, or replays them.
    """
    if not prefetcher.block:
        yield from steps
    while ahead := list(islice(steps, prefetcher.block)):
        if tape is None:
            prefetcher.predict_block(ahead)
        else:
            tape.predict_block(prefetcher, ahead)
        yield from ahead


def gates_of(step: Step) -> list[Gate]:
    """The gates of all layers, in order."""
    gates = list(map(Gate, count(), step.maps.swapaxes(0, 1), step.experts.swapaxes(0, 1)))
    for distance, probs in step.lookahead.items():
        for gate, seen in zip(gates, probs.swapaxes(0, 1), strict=True):
            gate.lookahead[distance] = seen
    return gates


class _Replay:
    """A request's rows, split into iterations."""

    def __init__(self, recorded: RecordedRequest) -> None:
        self.recorded = recorded
        self.maps = recorded.gate.astype(np.float32)
        self.lookahead = {distance: probs.astype(np.float32) for distance, probs in recorded.lookahead.items()}
        self.embedding = None if recorded.embedding is None else recorded.embedding.astype(np.float32)
        starts = np.flatnonzero(np.diff(recorded.iteration, prepend=-1))
        self.starts = [*starts.tolist(), len(recorded.token)]
        self.steps = len(starts)
        self.has_prefill = bool(recorded.iteration[0] == 0)
        self.demands = np.sort(recorded.experts, axis=2).tolist()  # right where an iteration has one token
        if recorded.experts.min() < 0:
            self.demands = [[[x for x in layer if x >= 0] for layer in token] for token in self.demands]
        reach = recorded.position.astype(np.int64) + 1
        self.context = np.maximum.reduceat(reach, starts).tolist()
        self.attended = np.add.reduceat(reach, starts).tolist()

    def rows(self, step: int) -> slice:
        return slice(self.starts[step], self.starts[step + 1])


class _Together:
    """Requests that run together, and the arrays that all their decode steps share."""

    def __init__(self, replays: Sequence[_Replay]) -> None:
        self.replays = replays
        self.recorded = [replay.recorded for replay in replays]
        self.request = np.array([recorded.request for recorded in self.recorded])
        self.row = np.arange(len(replays))
        self.no_prefill = np.zeros(len(replays), bool)
        self.has_prefill = np.array([replay.has_prefill for replay in replays])


def _step(number: int, step: int, together: _Together) -> Step:
    running, recorded = together.replays, together.recorded
    rows = [replay.rows(step) for replay in running]
    experts = _join([each.experts for each in recorded], rows)
    maps = _join([replay.maps for replay in running], rows)
    if len(experts) == 1:
        demands, loads = running[0].demands[rows[0].start], None
    else:
        demands, loads = _distinct(experts, maps.shape[2])
    embeddings = [replay.embedding for replay in running if replay.embedding is not None]
    batch = Batch(
        iteration=number,
        request=together.request,
        row=together.row.repeat([each.stop - each.start for each in rows]) if len(maps) > len(rows) else together.row,
        prefill=together.no_prefill if step else together.has_prefill,
        token=_join([each.token for each in recorded], rows),
        embedding=_join(embeddings, rows) if len(embeddings) == len(running) else None,
    )
    return Step(
        batch=batch,
        maps=maps,
        experts=experts,
        lookahead={
            distance: _join([replay.lookahead[distance] for replay in running], rows)
            for distance in running[0].lookahead
        },
        demands=demands,
        loads=loads,
        context=sum([replay.context[step] for replay in running]),
        attended=sum([replay.attended[step] for replay in running]),
        starting=[each.request for each in recorded] if step == 0 else (),
        ending=[replay.recorded.request for replay in running if replay.steps == step + 1],
    )


def _join(arrays: list[Array], rows: list[slice]) -> Array:
    """The selected rows of all arrays, concatenated."""
    if len(arrays) == 1:
        return arrays[0][rows[0]]
    return np.concatenate([array[some] for array, some in zip(arrays, rows, strict=True)])


def _distinct(experts: Int, total: int) -> tuple[list[list[int]], list[list[int]]]:
    """From experts `[T, L, K]`, for each layer: the distinct experts in rising order, and the tokens of each."""
    tokens = tokens_by_expert(experts, total)
    demands = [np.flatnonzero(row).tolist() for row in tokens]
    return demands, [row[row > 0].tolist() for row in tokens]
