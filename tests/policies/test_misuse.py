"""What a policy may not say is one line that names policy, hook, layer and value: in both drivers and in `predict`."""

import re
from itertools import cycle, product

import pytest

from common.errors import UserError
from policies.base import Evictor, Policy, Prefetcher
from policies.checked_policy import to_run
from policies.hooks import Hooks
from policies.registry import make_policy
from policies.types import Prefetch
from policies.validity import check_policy
from sim.__main__ import main as sim
from sim.forecast.plan_scores import measure
from tests.support.misused_policies import KEYS, LINES, SPOILT
from tests.support.policy_helpers import HISTORY, MODEL, TEST, run
from tests.support.slow_cases import slow_but
from tests.validate.driver.test_driver import play
from validate.__main__ import main as validate


def spec_of(kind):
    return f"tests.support.misused_policies:misused,kind={kind}"


def simulated(spec):
    run(spec)


def replayed(spec):
    """By real threads."""
    play(make_policy(spec), name=spec, move=lambda copy: None, requests=TEST, slots=(4, 5))


def predicted(spec):
    measure(spec, MODEL, TEST, history=HISTORY)


def line_of(driver, spec):
    with pytest.raises(UserError) as caught:
        driver(spec)
    return str(caught.value)


DRIVERS = (simulated, replayed, predicted)
EVERYWHERE = [(kind, driver) for kind in LINES for driver in DRIVERS]
ENDLESS = "on_gate never ends"
FAST = [each for each in EVERYWHERE if each[1] is simulated or each in EVERYWHERE[::4]]


@pytest.mark.parametrize(("kind", "driver"), slow_but(EVERYWHERE, *(each for each in FAST if each[0] != ENDLESS)))
def test_a_misuse_is_one_line(kind, driver):
    assert line_of(driver, spec_of(kind)) == f"policy {spec_of(kind)}: {LINES[kind]}"


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_hook_that_never_ends_is_one_line(driver, monkeypatch):
    """After fewer items than in a run of ours."""
    monkeypatch.setattr("policies.checked_policy.MOST_ACTIONS", 500)
    said = LINES[ENDLESS].replace("100000", "500")
    assert line_of(driver, spec_of(ENDLESS)) == f"policy {spec_of(ENDLESS)}: {said}"


@pytest.mark.parametrize("driver", [simulated, replayed])
@pytest.mark.parametrize("kind", KEYS)
def test_an_invalid_copy_key_is_one_line_wherever_copies_are_made(kind, driver):
    spec = f"tests.support.misused_policies:with_key,kind={kind}"
    assert line_of(driver, spec) == f"policy {spec}: {KEYS[kind][1]}"


@pytest.mark.parametrize("driver", [simulated, replayed])
@pytest.mark.parametrize("hook", SPOILT)
def test_scores_that_any_hook_spoils_are_one_line_wherever_there_is_a_cache(hook, driver):
    spec = f"tests.support.misused_policies:spoilt,hook={hook}"
    said = SPOILT[hook]
    if driver is replayed and hook == "loaded":
        said = said.replace("layer 3", r"layer \d")  # the prefetch may begin before the first demand, or after it
    assert re.match(f"policy {re.escape(spec)}: {said}", line_of(driver, spec))


def test_an_exception_in_a_hook_is_the_cause():
    with pytest.raises(UserError) as caught:
        simulated(spec_of("on_gate fails"))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_our_own_policies_are_checked_under_check(monkeypatch):
    monkeypatch.setattr(
        "policies.systems.deepspeed.WholeLayers.on_layer", lambda self, batch, layer: [Prefetch(0, [6], [1.0])]
    )
    with pytest.raises(UserError, match=r"policy deepspeed: on_layer, iteration 0, layer 0: an expert of a Prefetch"):
        run("deepspeed", check=True)


# ---- before anything runs, in every command --------------------------------------------------------------------------

SETTINGS = {
    "count=two": "policy '{0}:mine,count=two': count: must be a whole number, not 'two'",
    "": "policy {0}:mine needs the setting 'count'",
    "count=2,kount=3": "policy {0}:mine: unknown setting 'kount'; did you mean 'count'?",
    "count=2,order=best": "policy '{0}:mine,count=2,order=best': order: must be up or down, not 'best'",
    "count=2,needs=lookahead": "policy {0}:mine,count=2,needs=lookahead: prefetcher.requires: "
    "unknown requirement 'lookahead'; did you mean 'lookahead_1'?",
    "count=2,needs=futur": "policy {0}:mine,count=2,needs=futur: prefetcher.requires: "
    "unknown requirement 'futur'; did you mean 'future'?",
    "count=2,chunk=0": "policy {0}:mine,count=2,chunk=0: chunk_bytes: "
    "must be 'whole', None or a whole number of at least 1, not 0",
    "count=2,chunk=all": "policy '{0}:mine,count=2,chunk=all': chunk: must be a whole number, whole or none, not 'all'",
}

MINE = '''
from typing import Literal
from policies.base import Evictor, Policy, Prefetcher

def mine(
    count: int,
    order: Literal["up", "down"] = "up",
    needs: str | None = None,
    chunk: int | Literal["whole"] | None = None,
):
    """A policy."""
    prefetcher = Prefetcher()
    prefetcher.requires = frozenset([needs] if needs else [])
    return Policy(prefetcher=prefetcher, evictor=Evictor(), chunk_bytes=chunk)
'''


COMMANDS = ["sim run a.trace", "sim predict a.trace", "validate replay pocket"]


@pytest.mark.parametrize(
    ("settings", "command"), slow_but([*product(SETTINGS, COMMANDS)], *zip(SETTINGS, cycle(COMMANDS)))
)
def test_an_invalid_policy_is_one_line_in_every_command(mine, capsys, trace, settings, command):
    program, *arguments = command.split()
    name = mine(MINE)
    arguments = [str(trace) if word == "a.trace" else word for word in arguments]
    main = {"sim": sim, "validate": validate}[program]
    assert main([*arguments, "--policy", f"{name}:mine,{settings}".rstrip(",")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {SETTINGS[settings].format(name)}\n"


@pytest.mark.parametrize("shown", [True, False])
def test_traceback_shows_an_author_where_it_came_from(mine, capsys, trace, shown):
    name = mine(
        "from policies.base import *\n"
        "class Mine(Prefetcher):\n"
        "    def on_gate(self, batch, gate):\n"
        "        return batch.no_such_thing\n"
        "def mine(): return Policy(prefetcher=Mine(), evictor=Evictor())\n"
    )
    for command in ("run", "predict"):
        assert sim([command, str(trace), "--policy", f"{name}:mine", *["--traceback"] * shown]) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[-1] == (
            f"error: policy {name}:mine: on_gate, iteration 0, layer 0: "
            "AttributeError: 'Batch' object has no attribute 'no_such_thing'"
            + " (--traceback shows where)"
            * (not shown)
        )
        assert ("    return batch.no_such_thing" in said) == shown
        assert len(said) > 5 or not shown


# ---- what a policy is made of, and what it is shown ---------------------------------------------------------------

PARTS = [
    ("prefetcher", {"note": 3}, "prefetcher.note: must be a string, not 3"),
    ("prefetcher", {"block": "x"}, "prefetcher.block: must be a whole number, not 'x'"),
    ("prefetcher", {"requires": ["embedding"]}, "prefetcher.requires: must be a set of names, not ['embedding']"),
    ("evictor", {"patience": "long"}, "evictor.patience: must be a whole number, not 'long'"),
    ("evictor", {"guards": 1}, "evictor.guards: must be True or False, not 1"),
    ("evictor", {"guards": True}, "evictor.guards: is set, but Evictor has no foreseen"),
    ("policy", {"blocking_prefetch": "no"}, "blocking_prefetch: must be True or False, not 'no'"),
    ("policy", {"copy_key": 3}, "copy_key: must be a function or None, not 3"),
    ("policy", {"prefetcher": 3}, "prefetcher: must be a Prefetcher, not int"),
]


@pytest.mark.parametrize(("part", "attributes", "line"), PARTS)
def test_a_part_of_the_wrong_type_is_one_line(part, attributes, line):
    prefetcher, evictor = Prefetcher(), Evictor()
    for name, value in attributes.items():
        if part != "policy":
            setattr({"prefetcher": prefetcher, "evictor": evictor}[part], name, value)
    given = {"prefetcher": prefetcher, "evictor": evictor} | (attributes if part == "policy" else {})
    with pytest.raises(UserError) as caught:
        check_policy(Policy(**given), "mine:x")
    assert str(caught.value) == f"policy mine:x: {line}"


def test_a_user_error_in_a_hook_from_outside_names_policy_and_hook(mine):
    name = mine(
        "from common.errors import UserError\n"
        "from policies.base import *\n"
        "class Mine(Prefetcher):\n"
        "    def start(self, setup):\n"
        "        raise UserError('no such table')\n"
        "def mine(): return Policy(prefetcher=Mine(), evictor=Evictor())\n"
    )
    with pytest.raises(UserError, match=f"^policy {name}:mine: start: no such table$"):
        simulated(f"{name}:mine")


def test_a_hook_that_an_instance_has_of_its_own_is_called():
    prefetcher = Prefetcher()
    prefetcher.on_gate = lambda batch, gate: [Prefetch(0, [1], [1.0])]
    assert prefetcher.overridden() == {"on_gate"}
    assert Hooks(Policy(prefetcher=prefetcher, evictor=Evictor())).heard == {"gated"}


def test_a_policy_cannot_change_the_price_of_a_search_once_it_is_issued():
    """Whatever it writes into the search that it answers, the simulation takes the time that was asked for."""
    ends = {kind: run(f"tests.support.misused_policies:priced,kind={kind}").makespan_s for kind in ("fair", "cheap")}
    assert ends["cheap"] == ends["fair"] > 1.0  # ten times 0.2 s, blocking


def test_no_policy_from_outside_sees_coming_iterations():
    spec = "tests.support.broken_policies:block_peeker"
    policy = make_policy(spec)
    assert policy.prefetcher.block == 4
    assert to_run(policy, spec, check=False).prefetcher.block == 0
    own = make_policy("finemoe,learn=false")
    assert to_run(own, "finemoe,learn=false", check=True).prefetcher.block == own.prefetcher.block == 64


def test_a_gate_from_outside_has_nothing_behind_it(mine):
    name = mine(
        "from policies.base import *\n"
        "class Mine(Prefetcher):\n"
        "    def on_gate(self, batch, gate):\n"
        "        assert gate.probs.base is None and gate.experts.base is None and batch.embedding.base is None\n"
        "        return ()\n"
        "    def on_batch_end(self, batch, maps, experts):\n"
        "        assert maps.base is None and experts.base is None\n"
        "        return [__import__('policies.types').types.Search('update', 0, 1, 1, 1)]\n"
        "def mine(): return Policy(prefetcher=Mine(), evictor=Evictor())\n"
    )
    simulated(f"{name}:mine")


def test_an_evictor_keeps_its_patience_when_it_is_checked():
    policy = make_policy("clairvoyant")
    checked = to_run(policy, "clairvoyant", check=True)
    policy.evictor.patience = 3
    assert checked.evictor.patience == 3


def test_a_class_that_is_not_a_policy_is_refused_by_its_kind(mine):
    name = mine("from policies.base import Prefetcher\nclass Mine(Prefetcher): ...\n")
    with pytest.raises(UserError, match=r"is a Prefetcher; name a function that returns Policy\("):
        make_policy(f"{name}:Mine")
    with pytest.raises(UserError, match=r"^policy lhd: is an evictor; use lru\+lhd to copy on demand and evict by it$"):
        make_policy("lhd")
