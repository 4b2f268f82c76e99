"""The reproduction in the documentation: its verdicts follow from its values, which paper.md and README repeat."""

import csv
import re
from pathlib import Path

from sim.paper.claims.claim import VERDICTS
from tests.support.verdict_checks import document_checked, verdicts_checked

ROOT = Path(__file__).parents[3]
PAPER = ROOT / "docs" / "paper"
BASELINES = {"DeepSpeed", "Mixtral-Offloading", "ProMoE", "MoE-Infinity"}


def rows() -> list[dict[str, str]]:
    with (PAPER / "paper_vs_ours.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def section() -> str:
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    return text.partition("## What we could and could not reproduce")[2].partition("\n## ")[0]


def test_every_verdict_follows_from_the_values_in_the_file() -> None:
    assert verdicts_checked(PAPER) >= 100
    assert document_checked(PAPER) >= 50


def test_the_pictures_that_the_documents_show_are_there() -> None:
    for name in ("paper_vs_ours.md", "implied_testbed.md"):
        shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (PAPER / name).read_text(encoding="utf-8"))
        assert shown
        assert [picture for picture in shown if not (PAPER / picture).is_file()] == []


def count(verdict: str, footing: str) -> int:
    return sum(row["verdict"] == verdict and row["footing"] in (footing, "both") for row in rows())


def test_the_document_counts_the_verdicts_of_the_file() -> None:
    for verdict in VERDICTS:
        assert f"| {verdict} | {count(verdict, 'even')} | {count(verdict, 'released')} |" in section()


def test_readme_counts_the_reproduced_statements() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    even, released = (count("reproduced", footing) for footing in ("even", "released"))
    assert f"judges {sum(count(verdict, 'even') for verdict in VERDICTS)} of its statements" in readme
    assert f"(*even*), {even} statements are reproduced." in readme
    assert f"(*released*), {released} are." in readme


def test_the_document_has_the_changes_of_figure_10() -> None:
    found = {}
    for row in rows():
        _, quantity, *baseline = row["claim"].split("-")
        if row["figure"] == "10" and row["rule"] == "number":
            found[quantity, "-".join(baseline), row["footing"]] = round(100 * float(row["ours"]))
    quantity = ""
    told = {}
    for line in section().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = next((each for each in BASELINES if cells[0].endswith(each)), None)
        if len(cells) == 4 and name:
            quantity = next((each for each in ("TTFT", "TPOT", "hit") if cells[0].startswith(each)), quantity)
            for footing, cell in zip(("even", "released"), cells[2:], strict=True):
                told[quantity.lower(), name.lower(), footing] = int(cell.replace("−", "-").removesuffix(" %"))
    assert told == found
    assert len(told) == 2 * 11
