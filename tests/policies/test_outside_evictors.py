"""Evictors of a user's own module or of an installed package: behind a plus, and alone."""

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from policies import registry
from policies.base import Prefetcher
from policies.registry import PLUG_INS, make_policy
from policies.systems.finemoe import ExpertMapPrefetcher
from tests.support.policy_helpers import refusal

EVICTOR = """
from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from policies.evictors.recency import LeastRecentlyUsed

if TYPE_CHECKING:
    from policies.base import Evictor

Keep = Literal["last", "first"]


class Mine(LeastRecentlyUsed):
    def __init__(self, *, classes: int | None = None, keep: Keep = "last"):
        self.classes = classes
        self.keep = keep

    def touched(self, layer, experts, now_s):
        super().touched(layer, experts, now_s)
        for expert in experts if self.keep == "first" else ():
            self.scores[layer * self.experts + expert] *= -1


def made() -> Evictor:
    return Mine(classes=7)
"""

POLICY = """
from policies.base import Policy, Prefetcher


def again(distance: int = 2) -> Policy:
    return Policy(prefetcher=Prefetcher(), evictor=Mine(), chunk_bytes=distance)
"""


def test_an_evictor_from_outside_takes_the_place_of_a_policys_own(mine: Any) -> None:
    name = mine(EVICTOR)
    policy = make_policy(f"finemoe,prefetch_distance=6+{name}:Mine,classes=3")
    assert isinstance(policy.prefetcher, ExpertMapPrefetcher)
    assert (policy.prefetcher.prefetch_distance, policy.evictor.classes) == (6, 3)  # type: ignore[attr-defined]
    assert make_policy(f"{name}:made+{name}:Mine,keep=first").evictor.keep == "first"  # type: ignore[attr-defined]


def test_alone_it_copies_on_demand(mine: Any, simulate: Any, trace: Path) -> None:
    name = mine(EVICTOR)
    own, other = f"{name}:Mine", f"{name}:Mine,keep=first"
    found = simulate(trace, "--check", policies=(own, other, "lru"))
    assert found[own]["copies"] == found["lru"]["copies"] != found[other]["copies"]
    assert make_policy(f"{name}:made").evictor.classes == 7  # type: ignore[attr-defined]


def test_a_module_behind_the_plus_may_have_a_name_that_begins_with_an_underscore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "_underscored_evictor.py").write_text(EVICTOR)
    assert type(make_policy("lru+_underscored_evictor:Mine").evictor).__name__ == "Mine"


@pytest.fixture
def plug_ins(mine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that registers a policy, an evictor, something else and something broken."""
    name = mine(f"{EVICTOR}{POLICY}number = 3\n")
    broken = mine("1 / 0")
    named = {"again": f"{name}:again", "own": f"{name}:Mine", "number": f"{name}:number", "broken": f"{broken}:x"}
    points = EntryPoints([EntryPoint(name=each, value=place, group=PLUG_INS) for each, place in named.items()])
    monkeypatch.setattr(registry, "entry_points", points.select)
    monkeypatch.syspath_prepend(str(Path.cwd()))


@pytest.mark.usefixtures("plug_ins")
def test_a_plug_in_may_be_a_policy_or_an_evictor() -> None:
    policy = make_policy("again,distance=3+own,classes=4")
    assert (policy.chunk_bytes, policy.evictor.classes) == (3, 4)  # type: ignore[attr-defined]
    assert type(make_policy("own").prefetcher) is Prefetcher


@pytest.mark.usefixtures("plug_ins")
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("lru+again", "evictor again: must return an Evictor, not Policy"),
        ("lru+owm", "unknown evictor 'owm'; did you mean 'own'?"),
        ("number", "policy number: its entry point must be a class or function, not int"),
        ("lru+broken", "evictor broken: its package cannot be loaded: division by zero"),
    ],
)
def test_a_mistake_in_a_plug_in_is_one_line(spec: str, said: str) -> None:
    assert refusal(spec) == said
