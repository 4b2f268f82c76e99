"""How a policy is named: settings, compositions, policies from outside."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from policies.base import Policy
from policies.evictors.belief_frequency import BeliefAndFrequency
from policies.evictors.lhd import LeastHitDensity
from policies.evictors.recency import LeastRecentlyUsed
from policies.registry import EVICTORS, NAMED, make_policy, policy_names
from policies.systems.finemoe import ExpertMapPrefetcher
from sim.__main__ import main
from tests.support.policy_helpers import refusal
from tests.support.run_helpers import arguments


def snippet(document: str = "README.md") -> str:
    """The policy that a document shows."""
    text = (Path(__file__).parents[2] / document).read_text(encoding="utf-8")
    (shown,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def again(" in code]
    return shown


# ---- compositions ----------------------------------------------------------------------------------------------------


def test_a_composition_has_the_prefetcher_and_choices_of_the_first_and_the_evictor_of_the_second() -> None:
    own, composed = make_policy("finemoe"), make_policy("finemoe+lru")
    assert isinstance(own.evictor, BeliefAndFrequency)
    assert isinstance(composed.evictor, LeastRecentlyUsed)
    assert isinstance(composed.prefetcher, ExpertMapPrefetcher)
    for choice in ("blocking_prediction", "blocking_prefetch", "compute_on_arrival", "chunk_bytes"):
        assert getattr(composed, choice) == getattr(own, choice)


def test_settings_belong_to_their_part() -> None:
    policy = make_policy("finemoe,prefetch_distance=6,learn=false+lhd,classes=2")
    assert isinstance(policy.prefetcher, ExpertMapPrefetcher)
    assert isinstance(policy.evictor, LeastHitDensity)
    assert (policy.prefetcher.prefetch_distance, policy.evictor.classes) == (6, 2)


def test_a_plus_in_a_number_is_no_composition() -> None:
    policy = make_policy("lru+lecar,learning_rate=1e+0")
    assert policy.evictor.learning_rate == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(set(policy_names()) - {"no-offload"}))
@pytest.mark.parametrize("evictor", sorted(EVICTORS))
def test_any_policy_takes_any_evictor(name: str, evictor: str) -> None:
    policy = make_policy(f"{name}+{evictor}")
    assert ("future" in policy.requires) == (evictor == "belady" or "future" in make_policy(name).prefetcher.requires)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("finemo+lru", "unknown policy 'finemo'; did you mean 'finemoe'?"),
        ("finemoe+seive", "unknown evictor 'seive'; did you mean 'sieve'?"),
        ("finemoe+no-offload", "evictor no-offload: is a policy; evictors are " + ", ".join(sorted(EVICTORS))),
        ("finemoe+lru,classes=2", "evictor lru has no settings; remove 'classes'"),
        ("finemoe+lhd,clases=2", "evictor lhd: unknown setting 'clases'; did you mean 'classes'?"),
        ("finemoe+lhd,classes=two", "evictor 'lhd,classes=two': classes: must be a whole number, not 'two'"),
        ("finemoe+lhd,classes=2,classes=3", "evictor 'lhd,classes=2,classes=3': classes: is set twice"),
        ("finemoe+", "unknown policy 'finemoe+'; did you mean 'finemoe'?"),
        ("finemoe+lhd,classes", "evictor 'lhd,classes': must be KEY=VALUE, not 'classes'"),
        ("finemoe+lru+lfu", "policy 'finemoe+lru+lfu': a policy has one evictor, not 2"),
        ("no-offload+lru", "policy 'no-offload+lru': no-offload keeps every expert, so there is nothing to evict"),
    ],
)
def test_a_mistake_in_a_composition_is_one_line(spec: str, said: str) -> None:
    assert refusal(spec) == said


def test_oracle_is_another_name_of_belady() -> None:
    assert NAMED["oracle"] == NAMED["belady"]


# ---- policies from outside -------------------------------------------------------------------------------------------


def test_the_readme_and_the_guide_show_the_same_policy() -> None:
    assert snippet("docs/write-a-policy.md") == snippet()


def test_the_readmes_policy_runs_as_it_stands(mine: Any, simulate: Any, trace: Path) -> None:
    code = snippet()
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 30
    name = mine(code)
    specs = (f"{name}:again", f"{name}:again,count=3", f"{name}:again+lhd", "lru")
    found = simulate(trace, "--check", policies=specs)
    assert list(found) == list(specs)
    assert found[specs[0]]["prefetched_copies"] > 0
    assert found[specs[0]]["copies"] != found[specs[1]]["copies"]


@pytest.mark.parametrize("name", ["queue", "sys"])  # one has a file
def test_a_file_that_another_module_hides_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}.py").write_text(snippet())
    line = rf"policy {name}:again: {name} is .*, which hides {name}\.py of the current folder; rename that file$"
    with pytest.raises(UserError, match=line):
        make_policy(f"{name}:again")
    (tmp_path / f"{name}.py").unlink()
    with pytest.raises(UserError, match=rf"module {name}: unknown policy 'again'"):
        make_policy(f"{name}:again")


def test_a_class_may_stand_for_a_function(mine: Any) -> None:
    name = mine(
        "from policies.base import Evictor, Policy, Prefetcher\n"
        "class Mine(Policy):\n"
        "    def __init__(self, chunk_bytes=7):\n"
        "        super().__init__(prefetcher=Prefetcher(), evictor=Evictor(), chunk_bytes=chunk_bytes)\n"
    )
    assert isinstance(make_policy(f"{name}:Mine"), Policy)
    assert make_policy(f"{name}:Mine,chunk_bytes=12").chunk_bytes == 12
    composed = make_policy(f"{name}:Mine,chunk_bytes=12+lru")
    assert (composed.chunk_bytes, type(composed.evictor)) == (12, LeastRecentlyUsed)


@pytest.mark.parametrize(
    ("code", "spec", "said"),
    [
        (
            "",
            "nowhere_at_all:x",
            "policy nowhere_at_all:x: no module 'nowhere_at_all' in the current folder or among installed packages",
        ),
        ("import nothing_such", "{}:x", "policy {0}:x: module {0} cannot be imported: No module named 'nothing_such'"),
        ("1 / 0", "{}:x", "policy {0}:x: module {0} cannot be imported: division by zero"),
        ("def lastly(): ...", "{}:lasty", "module {0}: unknown policy 'lasty'; did you mean 'lastly'?"),
        (
            f"limit = 3\n{snippet()}\nclass Evicts(LeastRecentlyUsed): ...",
            "{}:nothing_like_it",
            "module {0}: unknown policy 'nothing_like_it'; known: Evicts, again",
        ),
        ("best = 3", "{}:best", "policy {0}:best: best is a int, not a class or function"),
        ("def best(): return 3", "{}:best", "policy {0}:best: must return a Policy or an Evictor, not int"),
        ("def best(a: int): ...", "{}:best", "policy {0}:best needs the setting 'a'"),
        ("def best(a=1): ...", "{}:best,b=1", "policy {0}:best: unknown setting 'b'; known: a"),
        ("def best(a=1): 1 / 0", "{}:best", "policy {0}:best cannot be made: ZeroDivisionError: division by zero"),
        (
            "",
            "lru+nowhere_at_all:x",
            "evictor nowhere_at_all:x: no module 'nowhere_at_all' in the current folder or among installed packages",
        ),
        ("1 / 0", "lru+{}:x", "evictor {0}:x: module {0} cannot be imported: division by zero"),
        ("def lastly(): ...", "lru+{}:lasty", "module {0}: unknown evictor 'lasty'; did you mean 'lastly'?"),
        ("def best(): return 3", "lru+{}:best", "evictor {0}:best: must return an Evictor, not int"),
        (snippet(), "lru+{}:again", "evictor {0}:again: must return an Evictor, not Policy"),
        (
            snippet(),
            "lru+{}:again,count=x",
            "evictor '{0}:again,count=x': count: must be a whole number, not 'x'",
        ),
    ],
)
def test_a_mistake_in_a_policy_from_outside_is_one_line(mine: Any, code: str, spec: str, said: str) -> None:
    name = mine(code)
    assert refusal(spec.format(name)) == said.format(name)


def test_looking_for_a_module_here_leaves_the_search_path_as_it_was(mine: Any) -> None:
    import sys

    before = list(sys.path)
    refusal(f"{mine('')}:x")
    assert sys.path == before


# ---- what the results say of the bounds ------------------------------------------------------------------------------


def test_every_row_has_its_distance_to_the_best_known_and_the_bound(simulate: Any, trace: Path) -> None:
    know_all = ("clairvoyant", *(f"perfect-prefetch,prefetch_distance={each}+belady" for each in (3, 4)))
    found = simulate(trace, policies=("lru", *know_all, "no-offload"))
    alone = simulate(trace, policies=("lru",))["lru"]
    assert alone == found["lru"]
    fastest_s = min(found[name]["tpot_s_mean"] for name in know_all)
    assert alone["best_known"] == " = ".join(name for name in know_all if found[name]["tpot_s_mean"] == fastest_s)
    assert alone["tpot_over_best_known"] == pytest.approx(alone["tpot_s_mean"] / fastest_s, rel=1e-12)
    assert min(found[name]["tpot_over_best_known"] for name in know_all) == 1
    for each in found.values():
        assert each["makespan_lower_bound_s"] <= each["makespan_s"] * (1 + 1e-12)
    assert found["no-offload"]["makespan_lower_bound_s"] == found["no-offload"]["makespan_s"]


def test_the_best_known_prefetches_where_the_runs_beside_it_do_not(simulate: Any, trace: Path) -> None:
    alone = simulate(trace, "--no-prefetch", policies=("lru",))["lru"]
    assert simulate(trace, "--no-prefetch", policies=("lru", "clairvoyant"))["lru"] == alone


def test_a_policy_slower_than_its_own_cache_without_prefetch_is_flagged(
    simulate: Any, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DeepSpeed moves whole layers, of which most is not demanded."""
    words = ("--machine", "rtx3090")
    found = simulate(trace, *words, policies=("deepspeed", "perfect-prefetch", "lru"))
    without = simulate(trace, *words, "--no-prefetch", policies=("deepspeed", "perfect-prefetch"))
    for policy, pays in (("deepspeed", False), ("perfect-prefetch", True)):
        for time in ("tpot_s_mean", "ttft_s_mean"):
            assert found[policy][f"own_cache_{time}"] == without[policy][time]
        assert found[policy]["prefetching_pays"] is pays
        assert (found[policy]["tpot_s_mean"] <= without[policy]["tpot_s_mean"]) is pays
    assert found["lru"]["prefetching_pays"] is None
    assert main(arguments(trace, *words, policies=("deepspeed", "perfect-prefetch"))) == 0
    text = capsys.readouterr().out
    assert re.search(r"^deepspeed † § ", text, re.MULTILINE)
    assert re.search(r"^§ deepspeed: prefetching does not pay here; ", text, re.MULTILINE)


def test_the_table_shows_and_explains_the_distance_to_the_best_known(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(trace, "--batch-size", 2, "--placement", "balanced", "--out", tmp_path / "out", policies=("lru",))
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "over best" in text.split("---")[0]
    said = json.loads((tmp_path / "out" / "meta.json").read_text())["best_known"]
    assert said["of"][0] == "clairvoyant"
    assert set(said["policy"].split(" = ")) <= set(said["of"])
    text = " ".join(text.split())
    assert (
        " best known: the fastest of clairvoyant and perfect prefetch (3 or 4 layers ahead, Belady's evictor)" in text
    )
    assert "clairvoyant: prediction time not charged" not in text
