"""What a policy may not say is one line that names policy, hook, layer and value: in both drivers and in `predict`."""

import pytest

from common.errors import UserError
from policies.registry import make_policy
from policies.types import Prefetch
from sim.__main__ import main as sim
from sim.forecast.plan_scores import measure
from tests.support.misused_policies import KEYS, LINES
from tests.support.policy_helpers import HISTORY, MODEL, TEST, run
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


@pytest.mark.parametrize("driver", [simulated, replayed, predicted])
@pytest.mark.parametrize("kind", LINES)
def test_a_misuse_is_one_line(kind, driver):
    with pytest.raises(UserError) as caught:
        driver(spec_of(kind))
    assert str(caught.value) == f"policy {spec_of(kind)}: {LINES[kind]}"


@pytest.mark.parametrize("driver", [simulated, replayed])
@pytest.mark.parametrize("kind", KEYS)
def test_an_order_of_copies_that_is_none_is_one_line_wherever_copies_are_made(kind, driver):
    spec = f"tests.support.misused_policies:with_key,kind={kind}"
    with pytest.raises(UserError) as caught:
        driver(spec)
    assert str(caught.value) == f"policy {spec}: {KEYS[kind][1]}"


def test_what_a_hook_raised_is_the_cause():
    with pytest.raises(UserError) as caught:
        simulated(spec_of("on_gate fails"))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_our_own_policies_are_held_to_the_same_under_check(monkeypatch):
    monkeypatch.setattr(
        "policies.systems.deepspeed.WholeLayers.on_layer", lambda self, batch, layer: [Prefetch(0, [6], [1.0])]
    )
    with pytest.raises(UserError, match=r"policy deepspeed: on_layer, iteration 0, layer 0: an expert of a Prefetch"):
        run("deepspeed", check=True)


# ---- before anything runs, in every command --------------------------------------------------------------------------

SETTINGS = {
    "count=two": "policy '{0}:mine,count=two': count: must be a whole number, value 'two'",
    "": "policy {0}:mine needs the setting 'count'",
    "count=2,kount=3": "unknown setting of policy {0}:mine 'kount'; did you mean 'count'?",
    "count=2,order=best": "policy '{0}:mine,count=2,order=best': order: must be one of up, down, value 'best'",
    "count=2,needs=lookahead": "policy {0}:mine,count=2,needs=lookahead: prefetcher.requires: "
    "nothing has 'lookahead'; did you mean 'lookahead_1'?",
    "count=2,needs=futur": "policy {0}:mine,count=2,needs=futur: prefetcher.requires: "
    "nothing has 'futur'; did you mean 'future'?",
    "count=2,chunk=0": "policy {0}:mine,count=2,chunk=0: chunk_bytes: must be at least 1, or None, value 0",
}

MINE = '''
from typing import Literal
from policies.base import Evictor, Policy, Prefetcher

def mine(count: int, order: Literal["up", "down"] = "up", needs: str | None = None, chunk: int | None = None):
    """A policy."""
    prefetcher = Prefetcher()
    prefetcher.requires = frozenset([needs] if needs else [])
    return Policy(prefetcher=prefetcher, evictor=Evictor(), chunk_bytes=chunk)
'''


@pytest.mark.parametrize(
    "words", [("sim", "run", "a.trace"), ("sim", "predict", "a.trace"), ("validate", "replay", "pocket")]
)
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_policy_that_cannot_be_is_one_line_in_every_command(mine, capsys, trace, settings, words):
    program, *arguments = words
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
        )
        assert ("    return batch.no_such_thing" in said) == shown
        assert len(said) > 5 or not shown
