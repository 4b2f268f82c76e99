"""Speculation: predict the experts of a later layer from the router of an earlier one.

Either the trace has the later router's own output for the earlier layer's hidden state (`Gate.lookahead`), or a linear
map from the earlier gate is learned from the history.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from common.errors import UserError
from policies.executed import scattered
from policies.prediction.block_prefetcher import BlockPrefetcher
from policies.prediction.cosine import Single
from policies.prediction.past_records import sample
from policies.prediction.plan_arrays import Arrays, Plans, packed_plans, unpacked_plans
from policies.prediction.selection import highest, highest_plan, plans
from policies.types import (
    Batch,
    Float,
    Found,
    Gate,
    History,
    Iteration,
    Learned,
    Likely,
    ModelShape,
    Prefetch,
    Search,
    SearchKind,
    Setup,
)

_NOT_KEPT: Single = np.zeros((0, 0, 0), np.float32)  # in a replay: only plans are stored, not probabilities


class StridePredictor:
    """For each (layer, stride), a ridge regression from square roots of the gate `[J]` to the executed experts `[J]`.

    Ridge has a closed form, so all layers of a 24 × 32 or 32 × 8 model take seconds; logistic regression would iterate
    for each of the L·J experts. On gpt-oss-20b it recalls 0.64 of the executed experts at stride 1 and 0.60 at stride
    3; more than `train_tokens` = 20,000 do not help. Square roots give small probabilities more weight: they raise the
    recall on the pocket model from 0.51 to 0.54 at stride 1.
    """

    def __init__(self, *, regularisation: float, train_tokens: int) -> None:
        self.regularisation = regularisation
        self.train_tokens = train_tokens
        self.learned: dict[tuple[int, int], tuple[Single, Single]] = {}  # (layer, stride): slopes [J, J], offsets [J]

    def learn(
        self, history: History, model: ModelShape, pairs: Iterable[tuple[int, int]], rng: np.random.Generator
    ) -> None:
        """Fit each of the `pairs` (layer, stride) on a sample of the history's tokens; nothing if it has none."""
        from sklearn.linear_model import Ridge  # importing it takes a second, and lookahead gates do not need it

        records = ((recorded.gate, recorded.experts.astype(np.float32)) for recorded in history)
        for gates, executed in sample(records, self.train_tokens, rng):
            assert executed is not None
            roots = np.sqrt(gates.astype(np.float32))  # [N, L, J]
            ran = scattered(1.0, executed.astype(np.int64), model.experts, np.float32)
            for layer, stride in pairs:
                target = layer + stride
                known = slice(None) if executed[:, target].min() >= 0 else (executed[:, target] >= 0).any(axis=1)
                ridge = Ridge(alpha=self.regularisation).fit(roots[known, layer], ran[known, target])
                slopes = np.ascontiguousarray(ridge.coef_.reshape(model.experts, -1).T, np.float32)
                self.learned[layer, stride] = slopes, np.asarray(ridge.intercept_, np.float32)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The learned maps, as `restore` reads them; empty if there are none."""
        if not self.learned:
            return {}
        slopes, offsets = zip(*self.learned.values(), strict=True)
        return {"pairs": np.array(list(self.learned)), "slopes": np.stack(slopes), "offsets": np.stack(offsets)}

    def restore(self, arrays: Learned) -> None:
        """Take over the maps of another one: `pairs` `[n, 2]`, `slopes` `[n, J, J]`, `offsets` `[n, J]`."""
        if arrays:
            pairs = (tuple(pair) for pair in arrays["pairs"].tolist())
            maps = zip(arrays["slopes"].copy(), arrays["offsets"].copy(), strict=True)
            self.learned = dict(zip(pairs, maps, strict=True))

    def probabilities(self, layer: int, stride: int, gate: Float) -> Single:
        """`[T, J]` probabilities that `layer + stride` runs each expert, from the gate `[T, J]` of `layer`."""
        slopes, offsets = self.learned[layer, stride]
        likely: Single = np.sqrt(gate) @ slopes + offsets
        np.maximum(likely, 0, out=likely)
        return np.minimum(likely, 1, out=likely)


@dataclass(slots=True)
class _Answers:
    """The answers to the searches of one iteration."""

    found: dict[tuple[SearchKind, int], Likely]  # by kind and layer of the search; empty in a replay
    plans: Plans  # by the layer that is planned: one search guides it


class Speculator(BlockPrefetcher[_Answers]):
    """Prefetch what this layer's gate, or a lookahead gate, predicts for the layer `stride` ahead.

    Layer 0 also predicts the layers in between, by shorter strides; nothing guides layer 0 itself. Each token selects
    its `top_k` most probable experts. `lookahead` uses lookahead gates if there are any; `learned` learns a map for
    strides without one.
    """

    shares_predictions = True

    def __init__(
        self,
        *,
        stride: int,
        lookahead: bool = True,
        learned: bool = True,
        regularisation: float = 1.0,
        train_tokens: int = 20_000,
    ) -> None:
        self.stride = stride
        self.lookahead = lookahead
        self.learned = learned
        self.regularisation = regularisation
        self.train_tokens = train_tokens

    @override
    def start(self, setup: Setup) -> None:
        super().start(setup)
        model = setup.model
        if not 1 <= self.stride <= model.layers:
            raise UserError(f"speculation: prefetch_distance: must be from 1 to {model.layers}, not {self.stride}")
        if not 0 < self.regularisation < float("inf"):
            raise UserError(f"speculation: regularisation: must be a finite number above 0, not {self.regularisation}")
        if self.train_tokens < 1:
            raise UserError(f"speculation: train_tokens: must be at least 1, not {self.train_tokens}")
        self._model = model
        self._predictor = StridePredictor(regularisation=self.regularisation, train_tokens=self.train_tokens)
        self._answers: _Answers | None = None
        self._replayed = setup.replayed
        if setup.replayed:
            return
        if self.learned and setup.history is not None:
            self._predictor.restore(setup.learned(lambda: self._trained(setup)))
        if self.learned and not self._predictor.learned:
            self.note = "no history to learn from: it predicts " + (
                "only where the trace has lookahead gates" if self.lookahead else "nothing"
            )

    def _trained(self, setup: Setup) -> Learned:
        """The maps of all strides in use, as arrays."""
        assert setup.history is not None
        predictor = StridePredictor(regularisation=self.regularisation, train_tokens=self.train_tokens)
        pairs = [(layer, stride) for layer in range(self._model.layers) for stride in self._wanted(layer)]
        predictor.learn(setup.history, self._model, pairs, setup.rng)
        return predictor.arrays()

    @override
    def on_gate(self, batch: Batch, gate: Gate) -> Iterable[Prefetch | Search]:
        self._gate = gate
        self._answers = self.prepared.get(batch.iteration)
        self._strides = ahead, mapped = self._sources(gate)
        model, tokens = self._model, len(gate.probs)
        # The cost is that of reading the weights: a router's [J, h], a learned map's [J, J + 1].
        if ahead:
            yield Search("lookahead", gate.layer, tokens, model.hidden, model.experts * len(ahead))
        if mapped:
            yield Search("speculate", gate.layer, tokens, model.experts + 1, model.experts * len(mapped))

    @override
    def search(self, search: Search) -> Found:
        ahead, mapped = self._strides
        strides = ahead if search.kind == "lookahead" else mapped
        if self._answers is None:
            return self._likely(search.kind, self._gate, strides)
        found = self._answers.found.get((search.kind, search.layer))
        return found or Likely(search.layer + np.array(strides), _NOT_KEPT)

    @override
    def on_found(self, batch: Batch, layer_now: int, search: Search, found: Found) -> Iterable[Prefetch]:
        assert isinstance(found, Likely)
        layers = [layer for layer in found.layers.tolist() if layer > layer_now]
        if self._answers is None or not layers:
            return self._plans(found, layers)
        return [plan for plan in map(self._answers.plans.__getitem__, layers) if plan is not None]

    def _likely(self, kind: SearchKind, gate: Gate, strides: Sequence[int]) -> Likely:
        """The probabilities along the strides, from the lookahead gates or from the learned maps."""
        if kind == "lookahead":
            scores = [gate.lookahead[stride] for stride in strides]
        else:
            likely = [self._predictor.probabilities(gate.layer, stride, gate.probs) for stride in strides]
            scores = [each / np.float32(self._model.top_k) for each in likely]  # a distribution like a gate's
        probs = np.stack(scores, axis=1) if len(scores) > 1 else scores[0][:, None]
        return Likely(gate.layer + np.array(strides), probs)

    def _plans(self, found: Likely, layers: Sequence[int]) -> list[Prefetch]:
        """Plans of these of the found layers; the maximum over the tokens counts."""
        answer, top_k = [], self._model.top_k
        for place, layer in enumerate(found.layers.tolist()):
            if layer in layers:
                if len(found.probs) == 1:
                    answer.append(highest_plan(layer, found.probs[0, place], top_k))
                else:
                    probs = found.probs[:, place : place + 1]
                    answer += plans(highest(probs, top_k), probs, layer)
        return answer

    def _sources(self, gate: Gate) -> tuple[list[int], list[int]]:
        """The strides to predict from this gate: those with a lookahead gate, and others with a learned map."""
        wanted = self._wanted(gate.layer)
        ahead = [stride for stride in wanted if self.lookahead and stride in gate.lookahead]
        return ahead, [stride for stride in wanted if stride not in ahead and self._mapped(gate.layer, stride)]

    def _mapped(self, layer: int, stride: int) -> bool:
        """Whether there is a learned map; in a replay, whether there is a plan made with it."""
        if self._replayed:
            assert self._answers is not None
            return self._answers.plans[layer + stride] is not None
        return (layer, stride) in self._predictor.learned

    def _wanted(self, layer: int) -> Sequence[int]:
        last = min(self.stride, self._model.layers - 1 - layer)
        if layer == 0:
            return range(1, last + 1)
        return (self.stride,) if last == self.stride else ()

    # ---- prediction of whole iterations, which other runs share --------------------------------------------------

    @override
    def predicted(self, iterations: Sequence[Iteration]) -> Iterable[_Answers]:
        """Search and plan gate by gate, as the callbacks do: another order of addition would change the last bits."""
        return map(self._answered, iterations)

    def _answered(self, iteration: Iteration) -> _Answers:
        answers = _Answers({}, [None] * self._model.layers)
        for layer in range(self._model.layers):
            lookahead = {distance: probs[:, layer] for distance, probs in iteration.lookahead.items()}
            gate = Gate(layer, iteration.maps[:, layer], iteration.experts[:, layer], lookahead)
            ahead, mapped = self._sources(gate)
            kinds: tuple[tuple[SearchKind, list[int]], ...] = (("lookahead", ahead), ("speculate", mapped))
            for kind, strides in kinds:
                if strides:
                    answers.found[kind, layer] = found = self._likely(kind, gate, strides)
                    for plan in self._plans(found, found.layers.tolist()):
                        answers.plans[plan.layer] = plan
        return answers

    @override
    def packed(self, answers: Sequence[_Answers]) -> dict[str, NDArray[Any]]:
        """Only the plans; the searches to charge follow from them."""
        return packed_plans([each.plans for each in answers], self._model.experts)

    @override
    def unpacked(self, arrays: Arrays) -> Iterable[_Answers]:
        return (_Answers({}, plans) for plans in unpacked_plans(arrays, range(self._model.layers)))
