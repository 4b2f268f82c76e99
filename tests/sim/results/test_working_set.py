"""What an iteration needs, and what a cache smaller than that makes every policy move."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from policies.registry import policy_names
from sim.__main__ import main
from sim.results.result import read_results
from sim.results.summary import summarise
from sim.results.working_set import working_set
from tests.support.builders import KnownFuture, machine, random_requests, request_of, shape, with_lookahead
from tests.support.in_memory import Setting
from tests.support.in_memory import simulate as simulated
from tests.support.random_runs import random_run
from tests.support.run_helpers import EXPERT_BYTES, NO_REFERENCES, SHAPE, arguments, rows_of
from tests.support.slow_cases import slow_but, some_policies

MODEL = shape(5, 6)  # two experts of 24 bytes per layer: ten a token
TOKEN = 10
REQUESTS = [
    with_lookahead(recorded, 1)
    for recorded in random_requests(MODEL, np.random.default_rng(5), requests=6, decoded=12, prefill_tokens=4, hidden=3)
]
HISTORY, TEST = REQUESTS[:2], REQUESTS[2:]
MOVING = [name for name in policy_names() if name != "no-offload"]


def moved_too_little(iterations: pd.DataFrame, least_bytes: int, least_s: float) -> pd.DataFrame:
    """The iterations that break the law."""
    took_s = iterations["end_s"] - iterations["start_s"]
    return iterations[(iterations["copied_bytes"] < least_bytes) | (took_s < least_s * (1 - 1e-9))]


@pytest.mark.parametrize(
    ("gpus", "experts", "batch_size"),
    slow_but(
        [(*one, batch) for one in [(1, 2), (1, 6), (1, 9), (3, 6), (3, 7)] for batch in (1, 3)], (1, 2, 1), (3, 7, 3)
    ),
)
@pytest.mark.parametrize("policy", some_policies(MOVING))
def test_no_policy_moves_less_in_any_iteration(policy: str, gpus: int, experts: int, batch_size: int) -> None:
    hardware = machine(gpus, bytes_per_s=1e6)
    setting = Setting(model=MODEL, hardware=hardware, cache_experts=experts, batch_size=batch_size)
    run = simulated(policy, setting, TEST, history=HISTORY, future=KnownFuture(MODEL, TEST))
    found = working_set(run, setting.inputs(TEST))
    assert found["least_copied_bytes_per_iteration"] == (TOKEN - experts) * 24
    copies = -(-(TOKEN - experts) // gpus)
    assert found["least_link_s_per_iteration"] == pytest.approx(copies * hardware.cost(MODEL).copy_s(24), rel=1e-12)
    assert moved_too_little(run.iterations, (TOKEN - experts) * 24, found["least_link_s_per_iteration"]).empty
    if policy in ("lru", "oracle"):  # on demand
        assert (run.iterations["misses"] >= TOKEN - experts).all()


@pytest.mark.parametrize("seeds", slow_but([range(40), range(40, 150)], range(40)), ids=["40 runs", "110 more"])
@pytest.mark.parametrize("replicas", slow_but([1, 2], 2))
def test_no_choice_of_a_policy_moves_fewer_bytes(replicas: int, seeds: range) -> None:
    binding = 0
    for seed in seeds:
        run = random_run(seed, replicas=replicas)
        model = run.cache.model
        least = max(0, model.layers * model.top_k - sum(device.slots for device in run.cache.devices))
        least_bytes = sum(sorted(model.layer_expert_bytes * model.top_k)[:least])
        assert moved_too_little(run.recorder.iterations(), least_bytes, 0).empty, seed
        binding += least > 0
    assert binding > len(seeds) / 7.5


def test_if_sizes_differ_the_smallest_experts_may_be_the_ones_that_move() -> None:
    """Two experts of each layer, of 40, 10, 20, 30 and 50 bytes, and seven slots: 10 + 10 + 20 bytes have no slot."""
    model = replace(MODEL, expert_bytes_by_layer=(40, 10, 20, 30, 50))
    hardware = machine(1, bytes_per_s=1e6)
    setting = Setting(model=model, hardware=hardware, cache_experts=7)
    run = simulated("lru", setting, TEST)
    found = working_set(run, setting.inputs(TEST))
    assert found["working_set_bytes_token"] == 2 * (40 + 10 + 20 + 30 + 50)
    assert found["least_copied_bytes_per_iteration"] == 10 + 10 + 20
    copy_s = hardware.cost(model).copy_s
    assert found["least_link_s_per_iteration"] == pytest.approx(2 * copy_s(10) + copy_s(20), rel=1e-12)
    assert moved_too_little(run.iterations, 40, found["least_link_s_per_iteration"]).empty


def test_the_least_bytes_can_be_reached() -> None:
    """With the same experts in every step, holding on to all but one slot's worth moves no more than the law says."""
    tokens = [[[0, 1]] * MODEL.layers] * 6
    requests = [request_of(tokens, MODEL)]
    setting = Setting(model=MODEL, hardware=machine(1), cache_experts=9)
    run = simulated("belady", setting, requests, future=KnownFuture(MODEL, requests))
    assert run.iterations["copied_bytes"].iloc[1:].min() == 24


def test_lru_never_hits_in_decode_if_the_other_layers_of_a_token_fill_the_cache() -> None:
    """An expert comes again after all other layers at the earliest; until then their 8 experts have displaced it."""
    for experts, hits in ((8, False), (TOKEN + 6, True)):
        setting = Setting(model=MODEL, hardware=machine(1), cache_experts=experts)
        run = simulated("lru", setting, TEST)
        decode = run.iterations[~run.iterations["prefill"]]
        assert (decode["hits"].sum() > 0) == hits


def test_the_figures_are_those_of_the_recorded_rows(simulate: Any, trace: Path) -> None:
    found = simulate(
        trace, "--cache-experts", 6, "--train-split", 0, *NO_REFERENCES, policies=("lru", "promoe", "no-offload")
    )
    demanded: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for row in rows_of(trace, set(range(10))):
        experts = {(place // SHAPE.top_k, expert) for place, expert in enumerate(row["experts"])}
        demanded.setdefault((row["request"], row["iteration"]), set()).update(experts)
    sizes = sorted(map(len, demanded.values()))
    token = SHAPE.layers * SHAPE.top_k
    assert min(sizes) == token
    p95 = next(size for size in sizes if sum(each <= size for each in sizes) >= 0.95 * len(sizes))
    for policy, each in found.items():
        assert each["working_set_bytes_token"] == token * EXPERT_BYTES
        assert each["working_set_bytes_p95"] == p95 * EXPERT_BYTES > token * EXPERT_BYTES
        assert each["least_copied_bytes_per_iteration"] == (0 if policy == "no-offload" else (token - 6) * EXPERT_BYTES)
        assert (each["least_link_s_per_iteration"] > 0) == (policy != "no-offload")


def test_in_decode_one_by_one_both_working_sets_agree(simulate: Any, decoded: Path) -> None:
    alone, together = (
        simulate(decoded, "--batch-size", size, *NO_REFERENCES, policies=("lru",))["lru"] for size in (1, 3)
    )
    assert alone["working_set_bytes_p95"] == alone["working_set_bytes_token"] == together["working_set_bytes_token"]
    assert together["working_set_bytes_p95"] > together["working_set_bytes_token"]


def test_among_rate_measurements_there_is_no_computed_time() -> None:
    setting = Setting(model=MODEL, hardware=machine(1), cache_experts=6)
    run = replace(simulated("lru", setting, TEST), simulated=False)
    found = summarise(run, setting.scenario("lru"), setting.inputs(TEST))
    assert found["least_copied_bytes_per_iteration"] == 4 * 24
    assert found["least_link_s_per_iteration"] is None


def test_a_table_says_once_what_a_cache_below_a_token_costs(
    trace: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--sizes", "mixtral-8x7b", "--machine", "paper-a100")
    policies = ("no-offload", "lru", "finemoe")

    def said(*more: Any, policies: tuple[str, ...] = policies) -> list[str]:
        assert main(arguments(trace, *words, *NO_REFERENCES, *more, policies=policies)) == 0
        printed = " ".join(capsys.readouterr().out.split())  # a sentence may go over several lines
        return re.findall(r"The cache \([^)]*\) is smaller than the experts of one token .*? of link time", printed)

    (line,) = said("--cache-experts", 6, "--out", out)
    lru = read_results(out)[1].summary
    assert lru["least_copied_bytes_per_iteration"] == 2 * 352_321_536
    assert line == (
        "The cache (2.11 GB) is smaller than the experts of one token (2.82 GB): on-demand policies must miss, and at "
        f"least 0.70 GB have to move per token, at least {lru['least_link_s_per_iteration'] * 1e3:.3g} ms of link time"
    )
    (line,) = said("--cache-experts", 6, "--batch-size", 2)
    assert "have to move per iteration, at least " in line
    assert said("--cache-experts", 8) == []
    assert said("--cache-experts", 6, policies=("no-offload",)) == []
