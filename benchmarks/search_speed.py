"""How long FineMoE's search and its decisions take, on one core.

    python benchmarks/search_speed.py [--json] [--capacity 1000] [--iterations 200] [--rounds 9]

First one layer's trajectory search for one token (paper eq. 5): incremental, as the store does it, and beside it the
naive way, one product over the whole prefix (the stored prefixes' norms are known); mean over the layers.
Then all that `finemoe` decides in one decode iteration: `on_batch`, semantic search, per layer `on_gate`, trajectory
search and `on_found`, and `on_batch_end`, by which a full store learns. Below it the same as a simulation has it:
made for a block of iterations at once, or replayed from a tape of an earlier run. h is the size of the embedding. The
routing is drawn at random. Processor time; a round takes the median over its iterations after a warm-up, and shown are
the median and the best of the rounds: other work on the machine slows memory down.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported

import numpy as np

from common.tables import text_table
from policies.cache.setup_without_cache import setup_without_cache
from policies.prediction.cosine import Single
from policies.prediction.expert_map_store import ExpertMapStore
from policies.systems.finemoe import ExpertMapPrefetcher
from policies.types import Batch, Gate, ModelShape, Prefetch, RecordedRequest
from sim.engine.batching import fixed_batches

LAYERS_EXPERTS_TOP_K = [(24, 60, 4), (32, 8, 2), (24, 32, 4)]
HIDDEN = [64, 4096]
TARGETS_S = {("search", 60): 15e-6, ("decisions", 60, 64): 1e-3}
WARM_UP = 20


def shape(layers: int, experts: int, top_k: int, hidden: int) -> ModelShape:
    sizes = {"expert_ffn": 1, "attention_heads": 1, "kv_heads": 1, "head_dim": 1, "vocab": 1}
    return ModelShape(name="drawn", layers=layers, experts=experts, top_k=top_k, hidden=hidden, **sizes)


def drawn(model: ModelShape, tokens: int, rng: np.random.Generator) -> RecordedRequest:
    """Decode steps whose gates and embeddings are near one of 40 centres."""
    cluster = rng.integers(40, size=tokens)
    centres = np.random.default_rng(0).dirichlet(np.full(model.experts, 0.3), size=(40, model.layers))
    meanings = np.random.default_rng(1).normal(size=(40, model.hidden))
    gate = 0.8 * centres[cluster] + 0.2 * rng.dirichlet(np.full(model.experts, 0.5), size=(tokens, model.layers))
    return RecordedRequest(
        request=0,
        source="synthetic",
        iteration=np.arange(1, tokens + 1, dtype=np.int32),
        position=np.arange(tokens, dtype=np.int32),
        token=cluster.astype(np.int32),
        gate=gate.astype(np.float16),
        experts=np.argsort(-gate, axis=2)[:, :, : model.top_k].astype(np.int16),
        embedding=(meanings[cluster] + 0.3 * rng.normal(size=(tokens, model.hidden))).astype(np.float16),
    )


def median_s(work: Callable[[int], None], calls: int) -> float:
    """The median time of one call, `work(number)`."""
    times = []
    for number in range(-WARM_UP, calls):
        began_s = time.process_time()
        work(number % calls)
        times.append(time.process_time() - began_s)
    return median(times[WARM_UP:])


def search_times(model: ModelShape, capacity: int, calls: int) -> tuple[float, float]:
    """Seconds per layer of the incremental and of the naive search."""
    rng = np.random.default_rng(2)
    stored, asked = (drawn(model, count, rng).gate.astype(np.float32) for count in (capacity, calls))
    store = ExpertMapStore(model.layers, model.experts, capacity=capacity, prefetch_distance=3)
    store.add(stored, None)
    keys = [np.ascontiguousarray(stored[:, : layer + 1].reshape(capacity, -1).T) for layer in range(model.layers)]
    norms = [np.linalg.norm(each, axis=0) for each in keys]
    best = np.zeros((2, calls, model.layers), np.int64)

    def incremental(number: int) -> None:
        trajectory = store.trajectory(1)
        for layer in range(model.layers):
            trajectory.extend(asked[number : number + 1, layer])
            best[0, number, layer] = trajectory.best().index[0]

    def naive(number: int) -> None:
        for layer in range(model.layers):
            prefix = asked[number, : layer + 1].reshape(-1)
            scores = prefix @ keys[layer] / norms[layer] / np.linalg.norm(prefix)
            best[1, number, layer] = scores.argmax()

    times = median_s(incremental, calls) / model.layers, median_s(naive, calls) / model.layers
    assert (best[0] == best[1]).mean() > 0.99, "the two searches must agree but for near-ties"
    return times


def decision_time(model: ModelShape, capacity: int, iterations: int) -> float:
    """Seconds of `finemoe`'s decisions in one decode iteration, the store being full."""
    prefetcher, asked, maps, batches = _to_decide(model, capacity, iterations)

    def iteration(number: int) -> None:
        some, batch = slice(number, number + 1), batches[number]
        plans: list[Prefetch] = []
        for search in prefetcher.on_batch(batch):
            plans += prefetcher.on_found(batch, -1, search, prefetcher.search(search))
        for layer in range(model.layers):
            gate = Gate(layer, maps[some, layer], asked.experts[some, layer])
            for search in prefetcher.on_gate(batch, gate):
                plans += prefetcher.on_found(batch, layer, search, prefetcher.search(search))
        assert len(plans) == model.layers
        for _ in prefetcher.on_batch_end(batch, maps[some], asked.experts[some]):
            pass

    return median_s(iteration, iterations)


def block_times(model: ModelShape, capacity: int, iterations: int) -> tuple[float, float]:
    """Seconds per iteration of the same decisions, made for a whole block at once, and replayed."""
    prefetcher, asked, _, _ = _to_decide(model, capacity, iterations)
    steps = list(fixed_batches([asked], 1))
    count = min(prefetcher.block, iterations)
    firsts = range(0, iterations - count + 1, count)

    def predict(number: int) -> None:
        prefetcher.predict_block(steps[firsts[number] : firsts[number] + count])

    predicted_s = median_s(predict, len(firsts)) / count
    predict(0)
    predictions = prefetcher.predictions()
    return predicted_s, median_s(lambda _: prefetcher.replay(steps[:count], predictions), len(firsts)) / count


def _to_decide(
    model: ModelShape, capacity: int, iterations: int
) -> tuple[ExpertMapPrefetcher, RecordedRequest, Single, list[Batch]]:
    """A prefetcher with a full store, and decode iterations for it."""
    rng = np.random.default_rng(3)
    history, asked = drawn(model, capacity, rng), drawn(model, iterations, rng)
    prefetcher = ExpertMapPrefetcher(capacity=capacity)
    prefetcher.start(setup_without_cache(model, rng, history=[history]))
    assert asked.embedding is not None
    maps, embedding = asked.gate.astype(np.float32), asked.embedding.astype(np.float32)
    row, prefill = np.zeros(1, np.int32), np.zeros(1, bool)
    batches = [
        Batch(number, row, row, prefill, asked.token[number : number + 1], embedding[number : number + 1])
        for number in range(iterations)
    ]
    return prefetcher, asked, maps, batches


def rows_of(capacity: int, iterations: int, rounds: int) -> list[dict[str, Any]]:
    """A row per search and per set of decisions; rounds take turns, so that a busy moment does not fall on one row."""
    searches = [shape(*sizes, HIDDEN[0]) for sizes in LAYERS_EXPERTS_TOP_K]
    decisions = [shape(*sizes, hidden) for sizes in LAYERS_EXPERTS_TOP_K for hidden in HIDDEN]
    searched = [[search_times(model, capacity, iterations) for model in searches] for _ in range(rounds)]
    decided = [[decision_time(model, capacity, iterations) for model in decisions] for _ in range(rounds)]
    in_blocks = [[block_times(model, capacity, iterations) for model in decisions] for _ in range(rounds)]
    rows: list[dict[str, Any]] = []
    for model, times in zip(searches, zip(*searched, strict=True), strict=True):
        for way, each in zip(("incremental", "naive"), zip(*times, strict=True), strict=True):
            target_s = TARGETS_S.get(("search", model.experts)) if way == "incremental" else None
            rows.append({"what": f"{way} search of a layer", **_row(model, each, target_s)})
    for model, each in zip(decisions, zip(*decided, strict=True), strict=True):
        target_s = TARGETS_S.get(("decisions", model.experts, model.hidden))
        rows.append({"what": "decisions of an iteration", "hidden": model.hidden, **_row(model, each, target_s)})
    for model, times in zip(decisions, zip(*in_blocks, strict=True), strict=True):
        for way, each in zip(("made in a block", "replayed"), zip(*times, strict=True), strict=True):
            rows.append({"what": f"the same, {way}", "hidden": model.hidden, **_row(model, each, None)})
    return rows


def _row(model: ModelShape, times: tuple[float, ...], target_s: float | None) -> dict[str, Any]:
    return {
        "layers": model.layers,
        "experts": model.experts,
        "median_s": median(times),
        "best_s": min(times),
        "target_s": target_s,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list, an object per row, times in seconds")
    parser.add_argument("--capacity", type=int, default=1000, help="stored maps (default: 1000)")
    parser.add_argument("--iterations", type=int, default=200, help="decode iterations of a round (default: 200)")
    parser.add_argument("--rounds", type=int, default=9, help="(default: 9)")
    args = parser.parse_args()
    rows = rows_of(args.capacity, args.iterations, args.rounds)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    shown = [
        [each["what"], f"{each['layers']} × {each['experts']}", each.get("hidden", "")]
        + ["" if each[key] is None else f"{each[key] * 1e6:.1f}" for key in ("median_s", "best_s", "target_s")]
        for each in rows
    ]
    headers = ["one core, µs", "layers × experts", "h", "median", "best", "target"]
    print(text_table(shown, headers))


if __name__ == "__main__":
    main()
