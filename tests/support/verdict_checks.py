"""The rules of `paper_vs_ours.md` once more, from its words alone: every verdict is recomputed from the CSV."""

import csv
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

REPRODUCED, NOT_REPRODUCED, NOT_JUDGED = "reproduced", "not reproduced", "cannot be judged here"
SAME_ORDER = "same order, other size"
FOOTINGS = ("even", "released")


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "paper_vs_ours.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def verdicts_checked(folder: Path) -> int:
    """Hold every verdict, mean and count of the file to the rules; how many there are."""
    rows = read(folder)
    for row in rows:
        values = [float(cell) for name, cell in row.items() if name.startswith("ours: ") and cell]
        verdict, holding = _recomputed(row, values)
        assert (row["claim"], row["verdict"]) == (row["claim"], verdict)
        assert (row["claim"], row["holds_in"]) == (row["claim"], f"{holding} of {len(values)}")
        if values:
            assert abs(float(row["ours"]) - sum(values) / len(values)) <= 1e-9 * max(map(abs, values))
        else:
            assert row["ours"] == ""
        assert row["reason"] or verdict == REPRODUCED
    return len(rows)


def document_checked(folder: Path) -> int:
    """Hold the counts of the Markdown's first table to the CSV; how many statements there are."""
    rows = read(folder)
    text = (folder / "paper_vs_ours.md").read_text(encoding="utf-8")
    for figure in dict.fromkeys(row["figure"] for row in rows):
        name = f"Figure {figure}" if figure[0].isdigit() else figure.replace("-", " ").capitalize()
        own = [row for row in rows if row["figure"] == figure]
        assert _counts(text, rf"\[{name}\]\(#{name.lower().replace(' ', '-')}\)") == _expected(own), figure
    assert _counts(text, r"\*\*all\*\*") == _expected(rows)
    given = [row for row in rows if row["given"]]
    assert ("**of these by construction**" in text) == bool(given)
    if given:
        assert _counts(text, r"\*\*of these by construction\*\*") == _expected(given)
    assert len(re.findall(r"^\|.*∎ +\|", text, re.MULTILINE)) == len({row["claim"] for row in given})
    for rule in ("5 percentage points", "within 20 %", "factor of 2", "more than half", "in every trace"):
        assert rule in re.sub(r"\s+", " ", text)
    return len({row["claim"] for row in rows})


def _recomputed(row: dict[str, str], values: list[float]) -> tuple[str, int]:
    if not values:
        return NOT_JUDGED, 0
    mean = sum(map(Fraction, values)) / len(values)
    if row["rule"] == "number":
        return _number(float(row["paper"]), row["unit"] == "share", mean, values)
    if row["rule"] == "order":
        assert set(values) <= {0.0, 1.0}
        holding = int(sum(values))
    else:
        low, high = (float(row[name] or default) for name, default in (("low", "-inf"), ("high", "inf")))
        holding = sum(low <= value <= high for value in values)
    if holding == len(values):
        return REPRODUCED, holding
    return (SAME_ORDER if holding > len(values) / 2 else NOT_REPRODUCED), holding


def _number(paper: float, is_change: bool, mean: Fraction, values: list[float]) -> tuple[str, int]:
    def same(value: float | Fraction) -> bool:
        if is_change:
            return (value > 0 and paper > 0) or (value < 0 and paper < 0)
        return paper / 2 <= value <= 2 * paper

    holding = sum(map(same, values))
    off, allowed = abs(float(mean) - paper), 0.05 if is_change else 0.2 * paper
    if not same(mean) or holding <= len(values) / 2:
        return NOT_REPRODUCED, holding
    return (REPRODUCED if off <= allowed else SAME_ORDER), holding


def _counts(text: str, name: str) -> list[int]:
    found = re.search(rf"^\| {name} +\|(.*)\|$", text, re.MULTILINE)
    assert found, name
    return [int(count) for count in re.findall(r"\d+", found[1])]


def _expected(rows: list[dict[str, str]]) -> list[int]:
    counts = [len({row["claim"] for row in rows})]
    for footing in FOOTINGS:
        there = Counter(row["verdict"] for row in rows if row["footing"] in (footing, "both"))
        counts += [there[verdict] for verdict in (REPRODUCED, SAME_ORDER, NOT_REPRODUCED, NOT_JUDGED)]
    return counts
