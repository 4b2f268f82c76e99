"""Checks everything that a policy returns or raises; a mistake is one line with policy, hook, layer and value.

Policies from outside are always checked, our own under `--check`. An exception in a hook becomes such a line too, with
the exception as its cause.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from typing_extensions import override

from common.errors import PolicyCodeError, UserError, one_line
from policies.base import CopyKey, Evictor, Policy, Prefetcher
from policies.registry import is_own
from policies.types import Batch, Float, Found, Gate, Int, Iteration, ModelShape, Prefetch, Search, Setup
from policies.validity import (
    MisuseError,
    shown,
    valid_action,
    valid_found,
    valid_learned,
    valid_number,
    valid_plan,
    valid_scores,
    valid_update,
    valid_updates,
)

T = TypeVar("T")

MOST_ACTIONS = 100_000  # from one call of a hook: more is taken for an endless loop

_END = object()


def to_run(policy: Policy, name: str, *, check: bool) -> Policy:
    """The policy to run under this name: checked if it is from outside or if `check` is set."""
    return policy if is_own(name) and not check else checked(policy, name)


def checked(policy: Policy, name: str) -> Policy:
    """The same policy, checked."""
    same = copy(policy)  # of the same class, which may override `start`
    blame = _Blame(name)
    object.__setattr__(same, "prefetcher", CheckedPrefetcher(policy.prefetcher, blame))
    object.__setattr__(same, "evictor", CheckedEvictor(policy.evictor, blame))
    object.__setattr__(same, "copy_key", None if policy.copy_key is None else _CheckedKey(policy.copy_key, blame))
    return same


class _Blame:
    """Turns a policy's mistakes into a `UserError` that names the policy.

    A `UserError` from one of our own policies passes unchanged, since it names its subject itself.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.own = is_own(name)
        self._passed = UserError if self.own else ()

    @contextmanager
    def on(self, hook: str, where: str = "") -> Iterator[None]:
        """Blame this hook for whatever is raised in the block."""
        try:
            yield
        except self._passed:
            raise
        except (Exception, SystemExit) as error:
            plain = isinstance(error, MisuseError | UserError | NotImplementedError)
            problem = one_line(error) if plain else f"{type(error).__name__}: {one_line(error)}"
            blamed = f"policy {self._name}: {hook}{where}: {problem}"
            if isinstance(error, MisuseError):
                raise UserError(blamed) from None
            raise PolicyCodeError(blamed) from error


class _Shown:
    """Batches as policies see them: one copy per iteration."""

    def __init__(self) -> None:
        self._batches: dict[int, Batch] = {}

    def batch(self, batch: Batch) -> Batch:
        """A copy whose arrays cannot be written."""
        if batch.iteration not in self._batches:
            if len(self._batches) > 8:  # keep some, since a search may end a few iterations later
                del self._batches[min(self._batches)]
            self._batches[batch.iteration] = Batch(
                iteration=batch.iteration,
                request=_sealed(batch.request),
                row=_sealed(batch.row),
                prefill=_sealed(batch.prefill),
                token=_sealed(batch.token),
                embedding=None if batch.embedding is None else _sealed(batch.embedding),
            )
        return self._batches[batch.iteration]


def _sealed(array: Any) -> Any:
    """A copy that cannot be written."""
    sealed = array.copy()
    sealed.flags.writeable = False
    return sealed


def _with_checked_learning(setup: Setup) -> Setup:
    """The same setup; what a policy learns is checked before a driver may keep it."""
    return replace(setup, learned=lambda learn: setup.learned(lambda: valid_learned(learn())))


class CheckedPrefetcher(Prefetcher):
    """A prefetcher whose hooks are checked.

    It receives copies that cannot be written to, so it can neither change a run nor look at other data behind them.
    """

    def __init__(self, prefetcher: Prefetcher, blame: _Blame) -> None:
        self._prefetcher = prefetcher
        self._blame = blame
        self._shown = _Shown()
        self.requires = prefetcher.requires
        self.block = prefetcher.block if blame.own else 0  # others must not see coming iterations

    @override
    def overridden(self) -> set[str]:
        return self._prefetcher.overridden()

    @property
    @override
    def note(self) -> str:  # type: ignore[override]
        return self._prefetcher.note

    @override
    def start(self, setup: Setup) -> None:
        self._model = setup.model
        with self._blame.on("start"):
            self._prefetcher.start(_with_checked_learning(setup))

    @override
    def on_request_start(self, request: int) -> None:
        with self._blame.on("on_request_start", f", request {request}"):
            self._prefetcher.on_request_start(request)

    @override
    def on_request_end(self, request: int) -> None:
        with self._blame.on("on_request_end", f", request {request}"):
            self._prefetcher.on_request_end(request)

    @override
    def on_batch(self, batch: Batch) -> Iterator[Prefetch | Search]:
        return self._actions("on_batch", f", iteration {batch.iteration}", self._shown.batch(batch))

    @override
    def on_layer(self, batch: Batch, layer: int) -> Iterator[Prefetch | Search]:
        where = f", iteration {batch.iteration}, layer {layer}"
        return self._actions("on_layer", where, self._shown.batch(batch), layer)

    @override
    def on_gate(self, batch: Batch, gate: Gate) -> Iterator[Prefetch | Search]:
        where = f", iteration {batch.iteration}, layer {gate.layer}"
        lookahead = {distance: _sealed(probs) for distance, probs in gate.lookahead.items()}
        shown = Gate(gate.layer, _sealed(gate.probs), _sealed(gate.experts), lookahead)
        return self._actions("on_gate", where, self._shown.batch(batch), shown)

    @override
    def search(self, search: Search) -> Found:
        with self._blame.on("search", f", layer {search.layer}"):
            return valid_found(self._prefetcher.search(copy(search)), search, self._model)

    @override
    def on_found(self, batch: Batch, layer_now: int, search: Search, found: Found) -> Iterator[Prefetch]:
        where = f", iteration {batch.iteration}, layer {search.layer}"
        given = self._shown.batch(batch), layer_now, copy(search), found
        return self._each("on_found", where, valid_plan, "Prefetch", *given)

    @override
    def on_batch_end(self, batch: Batch, maps: Float, experts: Int) -> Iterator[Search]:
        where = f", iteration {batch.iteration}"
        given = self._shown.batch(batch), _sealed(maps), _sealed(experts)
        return self._each("on_batch_end", where, valid_update, "Search", *given)

    @override
    def predict_block(self, iterations: Sequence[Iteration]) -> None:
        with self._blame.on("predict_block", f", iteration {iterations[0].batch.iteration}"):
            self._prefetcher.predict_block(iterations)

    def _actions(self, hook: str, where: str, *given: Any) -> Iterator[Prefetch | Search]:
        return self._each(hook, where, valid_action, "Prefetch and Search", *given)

    def _each(
        self, hook: str, where: str, valid: Callable[[Any, ModelShape], T], kinds: str, *given: Any
    ) -> Iterator[T]:
        """What the hook returns, in plain numbers; it is called at once, and its answer is read item by item."""
        with self._blame.on(hook, where):
            returned = getattr(self._prefetcher, hook)(*given)
            if not isinstance(returned, Iterable):
                raise MisuseError(f"returned {shown(returned)}; it must return a list of {kinds}, or () for nothing")
        return self._read(hook, where, valid, iter(returned))

    def _read(
        self, hook: str, where: str, valid: Callable[[Any, ModelShape], T], returned: Iterator[Any]
    ) -> Iterator[T]:
        for _ in range(MOST_ACTIONS):
            with self._blame.on(hook, where):
                each = next(returned, _END)
                if each is _END:
                    return
                plain = valid(each, self._model)
            yield plain
        with self._blame.on(hook, where):
            raise MisuseError(f"returned more than {MOST_ACTIONS} items")


class _CheckedKey:
    """A `copy_key` whose values are checked."""

    def __init__(self, key: CopyKey, blame: _Blame) -> None:
        self._key = key
        self._blame = blame

    def __call__(self, layer: int, expert: int, weight: float, distance: int) -> float:
        with self._blame.on("copy_key", f", layer {layer}"):
            number = valid_number(self._key(layer, expert, weight, distance), f"the key of expert {expert}")
            if math.isnan(number):
                raise MisuseError(f"the key of expert {expert} is not a number")
        return number


class CheckedEvictor(Evictor):
    """An evictor whose hooks are checked; its scores are checked after each hook and whenever they are read."""

    def __init__(self, evictor: Evictor, blame: _Blame) -> None:
        self._evictor = evictor
        self._blame = blame
        self._shown = _Shown()
        self.requires, self.distinct, self.guards = evictor.requires, evictor.distinct, evictor.guards

    @override
    def start(self, setup: Setup) -> None:
        self._model = setup.model
        self.experts = setup.model.experts
        self._numbers = np.arange(setup.model.total_experts)
        with self._blame.on("evictor's start"):
            self._evictor.start(_with_checked_learning(setup))
            self._valid()

    @property
    @override
    def patience(self) -> int:  # type: ignore[override]
        return self._evictor.patience

    @property
    @override
    def scores(self) -> Any:  # type: ignore[override]
        with self._blame.on("scores"):
            return self._valid()

    @override
    def on_batch(self, batch: Batch) -> list[Search]:
        where = f", iteration {batch.iteration}"
        with self._blame.on("evictor's on_batch", where):
            updates = valid_updates(self._evictor.on_batch(self._shown.batch(batch)), self._model)
            self._valid()
        return updates

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> list[Search]:
        with self._blame.on("touched", f", layer {layer}"):
            updates = valid_updates(self._evictor.touched(layer, list(experts), now_s), self._model)
            self._valid()
        return updates

    @override
    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        with self._blame.on("loaded", f", layer {layer}"):
            self._evictor.loaded(layer, expert, now_s)
            self._valid()

    @override
    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        with self._blame.on("evicted", f", layer {layer}"):
            self._evictor.evicted(layer, expert, now_s)
            self._valid()

    @override
    def foreseen(self, fetched: int, occupants: Int) -> Float:
        layer = fetched // self._model.experts
        with self._blame.on("foreseen", f", layer {layer}"):
            scores = self._evictor.foreseen(fetched, occupants.copy())
            return valid_scores(scores, "the foreseen scores", occupants, self._model).copy()

    @override
    def believe(self, layer: int, probs: Float) -> None:
        with self._blame.on("believe", f", layer {layer}"):
            self._evictor.believe(layer, _sealed(probs))
            self._valid()

    def _valid(self) -> Float:
        scores = getattr(self._evictor, "scores", None)
        return valid_scores(scores, "the evictor's scores", self._numbers, self._model)
