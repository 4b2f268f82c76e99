"""`finemoe sim policies`: what there is to choose from, and what the command line understands of one's own."""

import json
from typing import Any

import pytest

from policies.registry import EVICTORS, policy_names
from sim.__main__ import main


def listed(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["policies", *more]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_all_policies_and_evictors_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(listed(capsys, "--json"))
    assert [each["name"] for each in found["policies"]] == policy_names()
    assert [each["name"] for each in found["evictors"]] == sorted(EVICTORS)
    for each in found["policies"] + found["evictors"]:
        assert each["line"].endswith("."), each["name"]
    text = listed(capsys)
    for each in found["policies"] + found["evictors"]:
        assert f"\n  {each['name']} " in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_list_shows_requirements_and_settings_with_their_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = {each["name"]: each for each in json.loads(listed(capsys, "--json"))["policies"]}
    assert found["lru"]["requires"] == []
    assert found["clairvoyant"]["requires"] == ["future"]
    distance = {"type": "int", "choices": None, "nullable": False, "default": 3, "required": False}
    chunk = {"type": "int", "choices": ["whole"], "nullable": True, "default": None, "required": False}
    assert found["perfect-prefetch"]["settings"] == {"prefetch_distance": distance, "chunk_bytes": chunk}
    threshold = {"type": "choice", "choices": ["exceed", "demo", "top-k"], "default": "exceed"}
    assert found["finemoe"]["settings"]["threshold"].items() >= threshold.items()
    text = listed(capsys)
    assert "needs: the future" in text
    assert "settings: prefetch_distance=3 (int), capacity=1000 (int), learn=true (bool)" in text
    assert "threshold=exceed (exceed|demo|top-k)" in text
    assert "chunk_bytes=none (int|whole|none)" in text


def test_an_author_sees_what_the_command_line_understands(mine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name = mine(
        "from policies.evictors.lhd import LeastHitDensity as Mine\n"
        "from policies.systems.trackers import map_t as again\n"
        "def open_ended(a: int, b: float | None = None): ...\n"
        "def bad(a: int = 3): return a\n"
    )
    names = [f"{name}:{each}" for each in ("again", "open_ended", "bad", "Mine")]
    assert listed(capsys, *names, "lru").splitlines() == [
        "Policies: --policy NAME[,setting=value…], or your own module:callable",
        "",
        f"  {names[0]}  FineMoE with trajectory search only and without δ:",
        "                      it predicts nothing for the first layers.",
        "                      settings: prefetch_distance=3 (int), capacity=1000 (int), learn=true (bool)",
        f"  {names[1]}",
        "                      settings: a (int, required), b=none (float|none)",
        f"  {names[2]}",
        "                      settings: a=3 (int)",
        f"                      without settings: policy {names[2]}: must",
        "                      return a Policy or an Evictor, not int",
        "  lru                 Copy on demand only, evict the least recently used.",
        "",
        "Evictors, to replace a policy's own: --policy NAME…+EVICTOR[,setting=value…]",
        "",
        f"  {names[3]}  Keep the experts with the most expected hits per time",
        "                      in their slot, estimated from their age.",
        "                      settings: classes=4 (int), decay=0.9 (float)",
        "  lru                 Keep what was used or prefetched last.",
    ]
    settings = json.loads(listed(capsys, names[1], "--json"))["policies"][0]["settings"]
    assert settings == {
        "a": {"type": "int", "choices": None, "nullable": False, "default": None, "required": True},
        "b": {"type": "float", "choices": None, "nullable": True, "default": None, "required": False},
    }


def test_only_the_names_asked_for_are_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(listed(capsys, "sieve", "deepspeed", "sieve", "--json"))
    assert {kind: [each["name"] for each in entries] for kind, entries in found.items()} == {
        "policies": ["deepspeed"],
        "evictors": ["sieve"],
    }


@pytest.mark.parametrize(
    ("code", "asked", "said"),
    [
        ("", "seive", "unknown policy or evictor 'seive'; did you mean 'sieve'?"),
        (
            "def best(x: dict): ...",
            "{0}:best",
            "policy {0}:best: setting 'x' has the annotation dict; supported are bool, int, float, str, "
            "Literal of strings or whole numbers, a number | Literal, and each of these | None",
        ),
    ],
)
def test_a_mistake_in_the_options_is_one_line(
    mine: Any, capsys: pytest.CaptureFixture[str], code: str, asked: str, said: str
) -> None:
    name = mine(code)
    assert main(["policies", asked.format(name)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"error: {said.format(name)}\n")


def test_an_evictor_that_needs_settings_is_among_the_evictors(mine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name = mine("from policies.base import Evictor\nclass Mine(Evictor):\n    def __init__(self, classes: int): ...\n")
    found = json.loads(listed(capsys, f"{name}:Mine", "--json"))
    assert found["policies"] == []
    assert [each["line"] for each in found["evictors"]] == [""]
