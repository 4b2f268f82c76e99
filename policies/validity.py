"""Checks of a policy's parts and of what its hooks return; the latter return the checked value in plain numbers.

A wrong value is a `MisuseError`; `policies.checked_policy` adds the policy and the hook.
"""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral, Real
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, nearest, one_line
from policies.base import Evictor, Policy, Prefetcher
from policies.types import Float, Found, Future, Int, Likely, ModelShape, Nearest, Prefetch, Search, SearchKind

_FOUND_BY: dict[str, type[Nearest] | type[Likely]] = {
    "semantic": Nearest,
    "trajectory": Nearest,
    "match": Nearest,
    "lookahead": Likely,
    "speculate": Likely,
}


class MisuseError(Exception):
    """A policy returned something wrong."""


LARGEST = 2**63 - 1

_PARTS: dict[str, tuple[type[Prefetcher | Evictor], dict[str, type]]] = {  # of a policy, their classes and attributes
    "prefetcher": (Prefetcher, {"requires": Set, "block": int, "note": str}),
    "evictor": (Evictor, {"requires": Set, "distinct": bool, "guards": bool, "patience": int}),
}
_SWITCHES = (
    "blocking_prediction",
    "blocking_prefetch",
    "compute_on_arrival",
    "refused_blocks",
    "preloaded",
)
_WORDS = {bool: "True or False", int: "a whole number", str: "a string", Set: "a set of names"}


def check_policy(policy: Policy, name: str) -> None:
    """Raise a `UserError` if a part of a policy has the wrong type, or requires something unknown."""

    def check_type(what: str, value: Any, kind: type) -> None:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UserError(f"policy {name}: {what}: must be {_WORDS[kind]}, not {shown(value)}")

    for part, (kind, attributes) in _PARTS.items():
        made: Any = getattr(policy, part)
        if not isinstance(made, kind):
            raise UserError(f"policy {name}: {part}: must be a {kind.__name__}, not {type(made).__name__}")
        for attribute, its_kind in attributes.items():
            what = f"{part}.{attribute}"
            try:
                value = getattr(made, attribute)
            except Exception as error:  # an attribute from outside may be a property
                raise UserError(f"policy {name}: {what}: {type(error).__name__}: {one_line(error)}") from error
            check_type(what, value, its_kind)
            if its_kind is int and value < 0:
                raise UserError(f"policy {name}: {what}: must be at least 0, not {value}")
        for need in sorted(map(str, made.requires)):
            if not re.fullmatch("embedding|future|lookahead_[1-9][0-9]*", need):
                known = nearest(need, ("embedding", "future", "lookahead_1"))
                raise UserError(f"policy {name}: {part}.requires: unknown requirement {need!r}; {known}")
    if policy.evictor.guards and type(policy.evictor).foreseen is Evictor.foreseen:
        raise UserError(f"policy {name}: evictor.guards: is set, but {type(policy.evictor).__name__} has no foreseen")
    for switch in _SWITCHES:
        check_type(switch, getattr(policy, switch), bool)
    chunk: Any = policy.chunk_bytes
    if not (chunk is None or chunk == "whole" or (type(chunk) is int and chunk >= 1)):
        raise UserError(
            f"policy {name}: chunk_bytes: must be 'whole', None or a whole number of at least 1, not {shown(chunk)}"
        )
    if policy.copy_key is not None and not callable(policy.copy_key):
        raise UserError(f"policy {name}: copy_key: must be a function or None, not {shown(policy.copy_key)}")


def future_for(policy: Policy, name: str, future: Future | None) -> Future | None:
    """The future, if the policy requires it; a `UserError` if there is none."""
    if "future" not in policy.requires:
        return None
    if future is None:
        raise UserError(f"policy {name} needs the recorded future")
    return future


def valid_action(value: Any, model: ModelShape) -> Prefetch | Search:
    """Check what most hooks return."""
    if isinstance(value, Prefetch):
        return valid_prefetch(value, model)
    if isinstance(value, Search):
        return valid_search(value, model, update=False)
    raise MisuseError(f"returned {shown(value)}, which is neither a Prefetch nor a Search")


def valid_plan(value: Any, model: ModelShape) -> Prefetch:
    """Check what `on_found` returns."""
    if not isinstance(value, Prefetch):
        raise MisuseError(f"returned {shown(value)}, which is not a Prefetch")
    return valid_prefetch(value, model)


def valid_prefetch(value: Any, model: ModelShape) -> Prefetch:
    """The same plan, in plain numbers."""
    layer = _whole(value.layer, "the layer of a Prefetch", 0, model.layers - 1)
    what = f"a Prefetch of layer {layer}"
    experts = [
        _whole(each, f"an expert of {what}", 0, model.experts - 1) for each in _sequence(value.experts, "experts")
    ]
    weights = [_weight(each, f"a weight of {what}") for each in _sequence(value.weights, "weights")]
    if len(set(experts)) < len(experts):
        twice = next(each for each in experts if experts.count(each) > 1)
        raise MisuseError(f"{what} has expert {twice} twice")
    if len(weights) != len(experts):
        raise MisuseError(f"{what} has {len(experts)} experts and {len(weights)} weights")
    belief = None if value.belief is None else _array(value.belief, f"the belief of {what}", (model.experts,))
    return Prefetch(layer, experts, weights, belief)


def valid_search(value: Search, model: ModelShape, *, update: bool) -> Search:
    """The same search, in plain numbers. With `update`, it must be work that nothing answers."""
    if value.kind not in get_args(SearchKind):
        raise MisuseError(f"a Search has the kind {value.kind!r}; {nearest(str(value.kind), get_args(SearchKind))}")
    if update != (value.kind == "update"):
        where = "but nothing answers it here; its kind must be 'update'"
        if not update:
            where = "which only on_batch_end and an evictor may return"
        raise MisuseError(f"a Search has the kind {value.kind!r}, {where}")
    layer = _whole(value.layer, "the layer of a Search", -1, model.layers - 1)
    sizes = [
        _whole(getattr(value, size), f"the {size} of a Search", 1, LARGEST) for size in ("rows", "dims", "entries")
    ]
    return Search(value.kind, layer, *sizes)


def valid_found(value: Any, search: Search, model: ModelShape) -> Found:
    """The same answer, its arrays checked for the shapes of its kind."""
    expected = _FOUND_BY[search.kind]
    if not isinstance(value, expected):
        raise MisuseError(
            f"returned {shown(value)}; the answer to a {search.kind!r} search must be a {expected.__name__}"
        )
    if isinstance(value, Nearest):
        index = _indices(value.index, "index")
        if len(index) != search.rows:
            raise MisuseError(f"index of the answer has {len(index)} rows, the search has {search.rows}")
        return Nearest(index, _array(value.score, "score of the answer", (search.rows,), least=-np.inf))
    assert isinstance(value, Likely)
    layers = _indices(value.layers, "layers")
    for layer in layers.tolist():
        _whole(layer, "a layer of the answer", 0, model.layers - 1)
    shape = search.rows, len(layers), model.experts
    return Likely(layers, _array(value.probs, "probs of the answer", shape))


def valid_updates(value: Any, model: ModelShape) -> list[Search]:
    """Check the updates that an evictor's hook returns; it may return nothing."""
    if value is None:
        return []
    if not isinstance(value, Iterable):
        raise MisuseError(f"returned {shown(value)}; it may return a list of Search, or nothing")
    return [valid_update(each, model) for each in value]


def valid_update(value: Any, model: ModelShape) -> Search:
    """Check an update: work that nothing answers."""
    if not isinstance(value, Search):
        raise MisuseError(f"returned {shown(value)}, which is not a Search")
    return valid_search(value, model, update=True)


def valid_scores(value: Any, what: str, numbers: Int, model: ModelShape) -> Float:
    """Check the scores of an evictor; `numbers` are the scored experts, as layer · J + expert."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise MisuseError(f"{what} must be an array of floats, not {shown(value)}")
    if value.shape != numbers.shape:
        raise MisuseError(f"{what} must have the shape {numbers.shape}, not {value.shape}")
    if not (value < np.inf).all():
        place = int(np.flatnonzero(~(value < np.inf))[0])
        layer, expert = divmod(int(numbers[place]), model.experts)
        raise MisuseError(
            f"{what} must be finite or -inf, not {float(value[place])} for expert {expert} of layer {layer}"
        )
    return value


def valid_learned(value: Any) -> dict[str, NDArray[Any]]:
    """Check what a policy learns; in C order and sorted by name, as it will be when it is read again."""
    if not isinstance(value, Mapping):
        raise MisuseError(f"the result of learning must be a dict of named arrays, not {shown(value)}")
    for name, array in value.items():
        if not isinstance(name, str):
            raise MisuseError(f"arrays in the result of learning must be named by strings, not {shown(name)}")
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufc":
            raise MisuseError(f"{name!r} in the result of learning must be an array of numbers, not {shown(array)}")
    return {name: np.asarray(array, order="C") for name, array in sorted(value.items())}


def valid_number(value: Any, what: str) -> float:
    """Check that a value is a number, possibly infinite or NaN."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise MisuseError(f"{what} must be a number, not {shown(value)}")
    return float(value)


def _whole(value: Any, what: str, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise MisuseError(f"{what} must be a whole number, not {shown(value)}")
    number = int(value)
    if number < least or (most is not None and number > most):
        bounds = (
            f"at least {least}" if most is None or (number < least and most == LARGEST) else f"from {least} to {most}"
        )
        raise MisuseError(f"{what} must be {bounds}, not {number}")
    return number


def _weight(value: Any, what: str) -> float:
    number = valid_number(value, what)
    if not 0 <= number < np.inf:
        raise MisuseError(f"{what} must be finite and at least 0, not {number}")
    return number


def _sequence(value: Any, what: str) -> Sequence[Any]:
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return list(value)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise MisuseError(f"{what} of a Prefetch must be a list, not {shown(value)}")
    return value


def _array(value: Any, what: str, shape: tuple[int, ...], *, least: float = 0.0) -> Any:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise MisuseError(f"{what} must be an array of floats, not {shown(value)}")
    if value.shape != shape:
        raise MisuseError(f"{what} must have the shape {shape}, not {value.shape}")
    wrong = ~(np.isfinite(value) & (value >= least))
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0].tolist())
        rule = "finite" if least < 0 else "finite and at least 0"
        raise MisuseError(f"{what} must be {rule}, not {float(value[place])} at {list(place)}")
    return value


def _indices(value: Any, what: str) -> Any:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" or value.ndim != 1:
        raise MisuseError(
            f"{what} of the answer must be an array of whole numbers in one dimension, not {shown(value)}"
        )
    return value


def shown(value: Any) -> str:
    """The value on one line, and no longer than 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"
