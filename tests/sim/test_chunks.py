"""The chunks in which prefetches move: a setting of the run, the same for all policies that do not say otherwise."""

from pathlib import Path

import pytest

from sim.results.result import Result
from sim.scenario import CHUNK_BYTES, CacheSize, Scenario
from sim.simulation import simulate
from tests.support.run_helpers import EXPERT_BYTES

PREFETCHING = ("finemoe", "moe-infinity", "moe-infinity-code", "promoe", "perfect-prefetch", "clairvoyant")


def ran(trace: Path, policy: str, **settings: object) -> Result:
    scenario = Scenario(trace, policy=policy, cache=CacheSize(experts=16), train_split=0.3, detail="events", **settings)  # type: ignore[arg-type]
    return simulate(scenario, quiet=True)


def copies(result: Result) -> tuple[list[int], list[int]]:
    """Bytes of the copies that were chosen as prefetches, and of those that were demanded."""
    assert result.events is not None
    chosen = result.events[(result.events["call"] == "next_copy") & (result.events["slot"] >= 0)]
    demanded = chosen["demanded"].astype(bool)
    return chosen.loc[~demanded, "bytes"].tolist(), chosen.loc[demanded, "bytes"].tolist()


@pytest.mark.parametrize("policy", PREFETCHING)
def test_prefetches_of_every_policy_move_in_the_chunks_of_the_run(trace: Path, policy: str) -> None:
    """Of 50 bytes each, of 192: the last is the rest. A late expert's rest moves in one piece, a missed one whole."""
    result = ran(trace, policy, chunk_bytes=50)
    prefetched, demanded = copies(result)
    assert set(prefetched) == {50, EXPERT_BYTES - 150}
    assert set(demanded) <= {EXPERT_BYTES, EXPERT_BYTES - 50, EXPERT_BYTES - 100, EXPERT_BYTES - 150}
    assert result.summary["chunk_bytes"] == 50


@pytest.mark.parametrize(
    ("policy", "run", "bytes_"),
    [
        ("promoe", "whole", EXPERT_BYTES),
        ("promoe", CHUNK_BYTES, EXPERT_BYTES),
        ("promoe,chunk_bytes=96", "whole", 96),
        ("promoe,chunk_bytes=96", 50, 96),
        ("promoe,chunk_bytes=whole", 50, EXPERT_BYTES),
        ("promoe,chunk_bytes=none", 96, 96),
        ("deepspeed", 50, EXPERT_BYTES),
    ],
)
def test_a_policys_own_chunk_size_takes_precedence(trace: Path, policy: str, run: int, bytes_: int) -> None:
    result = ran(trace, policy, chunk_bytes=run)
    assert set(copies(result)[0]) == {bytes_}
    assert result.summary["chunk_bytes"] == bytes_


def test_policies_that_copy_on_demand_do_not_depend_on_chunks(trace: Path) -> None:
    whole, cut = (ran(trace, "lru", chunk_bytes=size) for size in ("whole", 50))
    assert whole.iterations is not None
    assert cut.iterations is not None
    assert whole.iterations.equals(cut.iterations)
