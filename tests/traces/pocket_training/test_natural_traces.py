"""The section of a model card on naturalness: measured, marked, and inserted."""

import re

import pytest

from common.errors import UserError
from traces import pocket
from traces.analysis.naturalness import Naturalness, PhaseFigures
from traces.pocket.recipe import RECIPES
from traces.pocket_training import natural_traces
from traces.pocket_training.natural_traces import TITLE, measured, section, with_section


def card_of(name: str) -> str:
    return (pocket.model_dir(name) / "README.md").read_text(encoding="utf-8")


def rows_of(text: str) -> list[list[str]]:
    """Cells of the table in the section."""
    _, _, after = text.partition(TITLE)
    lines = re.findall(r"^\| (.*) \|$", after.partition("\n## ")[0], re.MULTILINE)
    return [line.split(" | ") for line in lines[2:]]


def figures(grams: float, recall: float | None) -> Naturalness:
    phase = PhaseFigures(
        rows=6048,
        sampled_tokens=4096,
        distinct_tokens=0.25,
        repeated_4grams=grams,
        repeated_rows=0.0,
        nearest_map_recall=recall,
        stored_maps=1000,
        searched_maps=1000,
    )
    return Naturalness(decode=phase, prompts=phase, unknown=[])


@pytest.mark.parametrize("name", RECIPES)
def test_of_every_model_greedy_decoding_alone_is_repetitive(name: str) -> None:
    greedy, *others = rows_of(card_of(name))
    assert [row[0] for row in others] == [
        "passages, sampled at temperature 1",
        "passages, their own text",
        "held-out text",
    ]
    assert greedy[-1] == "yes"
    for row in others:
        assert row[-1] == "no"
        assert float(row[3].removesuffix(" %")) < float(greedy[3].removesuffix(" %")) / 4
        assert float(row[5]) < float(greedy[5])


def test_the_card_of_the_pocket_model_is_what_is_measured_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    of_text = [way for way in natural_traces.ways(None) if way.generation.continue_text]
    monkeypatch.setattr(natural_traces, "ways", lambda corpus: of_text)
    (again,), stated = rows_of(section(measured(pocket.model_dir("pocket")))), rows_of(card_of("pocket"))[2]
    assert again[:2] == stated[:2]
    for one, other in zip(again[2:5], stated[2:5], strict=True):
        assert float(one.removesuffix(" %")) == pytest.approx(float(other.removesuffix(" %")), abs=0.3)
    assert float(again[5]) == pytest.approx(float(stated[5]), abs=0.01)


def test_a_section_marks_what_is_repetitive_and_leaves_open_what_is_unknown() -> None:
    found = section({"greedy": figures(0.6, 0.9), "sampled": figures(0.1, None), "text": figures(0.1, 0.7)})
    assert rows_of(found) == [
        ["greedy", "6,048", "25.0 %", "60.0 %", "0.0 %", "0.900", "yes"],
        ["sampled", "6,048", "25.0 %", "10.0 %", "0.0 %", "–", "no"],
        ["text", "6,048", "25.0 %", "10.0 %", "0.0 %", "0.700", "no"],
    ]


def test_a_new_section_takes_the_place_of_the_old_one_and_nothing_else() -> None:
    card = f"# Model\n\n## Before\n\nwords\n\n{TITLE}\n\nold\n\n## Recipe\n\nmore\n"
    new = f"{TITLE}\n\nnew words\n\nand a table"
    once = with_section(card, new)
    assert once == card.replace(f"{TITLE}\n\nold", new)
    assert with_section(once, new) == once
    with pytest.raises(UserError, match="the card has no section"):
        with_section("# Model\n", new)
