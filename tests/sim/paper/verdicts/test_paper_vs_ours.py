"""The two files of verdicts, from tables drawn at random: what they say follows from the values in the CSV."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.paper.claims.claim import NOT_REPRODUCED, REPRODUCED, SAME_ORDER, Claim, Tables
from sim.paper.claims.claim_values import COLUMNS, changes, each_trace, hit_gains, rising
from sim.paper.claims.general_claims import general_claims
from sim.paper.verdicts.judgement import UNEXPLAINED
from sim.paper.verdicts.paper_vs_ours import FILES, Section, verdict_counts, write_claims
from sim.paper.verdicts.verdict_table import judged
from tests.support.slow_cases import slow_but
from tests.support.verdict_checks import document_checked, read, verdicts_checked

SYSTEMS = ("FineMoE", "ProMoE", "DeepSpeed")
TRACES = [(model, prompts) for model in ("Mixtral", "Qwen", "Phi") for prompts in ("chat", "text")]
CLAIMS = [
    *(
        Claim(
            key=f"10-{metric}-{against.lower()}",
            figure="10",
            says=f"{metric} against {against}",
            rule="number",
            paper=paper,
            unit="share",
            ours=lambda tables, metric=metric, against=against: changes(tables["10"], metric, against),
            reasons={
                NOT_REPRODUCED: "WHY NOT",
                ("released", SAME_ORDER): "WHY THE SAME",
                ("even", REPRODUCED): "WHY, EVEN",
            },
        )
        for metric in ("ttft", "tpot")
        for against, paper in (("ProMoE", -0.3), ("DeepSpeed", -0.6))
    ),
    Claim(
        key="10-hit-promoe",
        figure="10",
        says="hit rate over ProMoE",
        rule="number",
        paper=0.1,
        unit="share",
        ours=lambda tables: hit_gains(tables["10"], "hit", "ProMoE"),
    ),
    Claim(
        key="10-tpot-order",
        figure="10",
        says="the order by TPOT",
        rule="order",
        ours=lambda tables: rising(tables["10"], "tpot", SYSTEMS),
    ),
    Claim(
        key="9-pearson",
        figure="9",
        says="Pearson coefficient",
        rule="range",
        low=0.84,
        high=0.97,
        ours=lambda tables: each_trace(tables["9"], lambda rows: rows["pearson"].iloc[0]),
    ),
    Claim(
        key="18-memory",
        figure="18",
        says="memory of the store",
        rule="bound",
        high=200,
        unit="MB",
        ours=lambda tables: each_trace(tables["18"], lambda rows: rows["mb"].iloc[0]),
        given="FROM SIZES ALONE",
    ),
    Claim(
        key="15-minimum",
        figure="15",
        says="best distance",
        rule="number",
        paper=3,
        unit="layers",
        ours=lambda tables: each_trace(tables["15"], lambda rows: rows["best"].iloc[0]),
    ),
]
ALL = [*CLAIMS, *general_claims(CLAIMS)]


def drawn(seed: int) -> Tables:
    rng = np.random.default_rng(seed)
    runs = [
        (*trace, footing, system, *rng.uniform(0.5, 1.5, 2) * scale, rng.uniform(0.5, 1))
        for footing in ("even", "released")
        for trace in TRACES
        for system, scale in zip(SYSTEMS, (1.0, 1.4, 2.5), strict=True)
    ]
    alone = pd.DataFrame(TRACES, columns=["model", "prompts"])
    return {
        "9": alone.assign(pearson=rng.uniform(0.8, 1, 6)),
        "10": pd.DataFrame(runs, columns=["model", "prompts", "footing", "system", "ttft", "tpot", "hit"]),
        "15": alone.assign(best=rng.integers(1, 8, 6)),
        "18": alone.assign(mb=rng.uniform(150, 210, 6)),
    }


def written(folder: Path, tables: Tables) -> str:
    sections = {"10": Section(about="Settings.", picture="figures/figure_10.png")}
    write_claims(folder, ALL, tables, sections=sections, notes=["SIMULATED."], full_twins=True)
    return (folder / FILES[1]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both files in several folders, each from other random tables."""
    found = [tmp_path_factory.mktemp("drawn") for _ in range(4)]
    for seed, folder in enumerate(found):
        written(folder, drawn(seed))
    return found


@pytest.fixture
def text(folders: list[Path]) -> str:
    """The document in the first folder."""
    return (folders[0] / FILES[1]).read_text(encoding="utf-8")


@pytest.mark.parametrize("seeds", slow_but([range(2), range(2, 6)], range(2)), ids=["two", "four"])
def test_every_verdict_follows_from_the_csv_by_the_rules_in_words(
    folders: list[Path], tmp_path: Path, seeds: range
) -> None:
    for seed in seeds:
        if (folder := folders[seed] if seed < len(folders) else tmp_path) == tmp_path:
            written(folder, drawn(seed))
        assert verdicts_checked(folder) == 2 * 8 + 3 + 1  # on two footings, of routing alone, of what is not run
        assert document_checked(folder) == len(ALL)


def test_the_random_tables_bring_out_most_verdicts_of_every_rule(folders: list[Path]) -> None:
    assert len({(row["rule"], row["verdict"]) for folder in folders for row in read(folder)}) >= 10


def test_a_reason_is_printed_only_beside_its_verdict(folders: list[Path]) -> None:
    seen = set()
    for row in (row for folder in folders for row in read(folder)):
        seen.add(row["reason"])
        assert row["reason"] != "WHY NOT" or row["verdict"] == "not reproduced"
        assert row["reason"] != "WHY THE SAME" or (row["footing"], row["verdict"]) == ("released", SAME_ORDER)
        assert row["reason"] != "WHY, EVEN" or (row["footing"], row["verdict"]) == ("even", "reproduced")
    assert {"WHY NOT", "WHY THE SAME", "WHY, EVEN", ""} < seen


def test_on_other_routing_a_reason_is_labelled_as_the_twins() -> None:
    tables = drawn(0)
    of_twins, elsewhere = judged(ALL, tables, full_twins=True), judged(ALL, tables)
    assert [row.verdict for row in elsewhere] == [row.verdict for row in of_twins]
    for row, other in zip(of_twins, elsewhere, strict=True):
        written = row.reason not in ("", UNEXPLAINED) and not row.claim.reasons_are_general
        assert other.reason == ("on the twins: " if written else "") + row.reason
    assert "on the twins: WHY NOT" in {row.reason for row in elsewhere}


def test_verdicts_without_a_reason_are_counted(folders: list[Path], text: str) -> None:
    text = " ".join(text.split())
    without = [row for row in read(folders[0]) if row["reason"] == "no experiment explains it yet"]
    assert without
    assert f"{len(without)} of these verdicts have no reason yet: " in text
    assert all(f"`{row['claim']}`" in text for row in without)


def test_the_headline_is_the_mean_over_the_baselines_of_figure_10(folders: list[Path]) -> None:
    rows = {(row["claim"], row["footing"]): row for row in read(folders[0])}
    parts = [float(rows[claim.key, "even"]["ours: Qwen, text"]) for claim in CLAIMS[:4]]
    assert float(rows["headline-latency", "even"]["ours: Qwen, text"]) == pytest.approx(sum(parts) / 4)
    assert float(rows["headline-hit", "even"]["ours"]) == pytest.approx(float(rows["10-hit-promoe", "even"]["ours"]))


def test_a_claim_without_its_table_names_the_missing_figure(tmp_path: Path) -> None:
    tables = {key: table for key, table in drawn(0).items() if key != "10"}
    text = written(tmp_path, tables)
    assert verdicts_checked(tmp_path) == len(ALL)
    assert document_checked(tmp_path) == len(ALL)
    assert "needs the values of figure 10, which were not made" in text
    assert "online serving is a later step" in text


def test_a_trace_that_cannot_be_judged_has_an_empty_cell(tmp_path: Path) -> None:
    tables = dict(drawn(0))
    table = tables["10"]
    tables["10"] = table[(table["system"] != "ProMoE") | (table["model"] != "Phi")]
    written(tmp_path, tables)
    assert verdicts_checked(tmp_path) == 20
    row = next(row for row in read(tmp_path) if row["claim"] == "10-tpot-promoe")
    assert (row["ours: Phi, chat"], row["holds_in"][-1]) == ("", "4")


def test_a_detail_explains_why_a_claim_cannot_be_judged(tmp_path: Path) -> None:
    none = pd.DataFrame([("both", "Qwen, chat", float("nan"), "too short")], columns=COLUMNS)
    claim = Claim(key="x-y", figure="x", says="", rule="order", ours=lambda tables: none)
    [row] = write_claims(tmp_path, [claim], {"x": none}, sections={}, notes=[])
    assert (row.reason, row.detail, row.verdict) == ("too short", "", "cannot be judged here")


def test_the_files_are_the_same_each_time(folders: list[Path], tmp_path: Path) -> None:
    written(tmp_path, drawn(0))
    texts = [[(folder / file).read_bytes() for file in FILES] for folder in (folders[0], tmp_path)]
    assert texts[0] == texts[1]


def test_the_counts_for_the_terminal_are_those_of_the_file(tmp_path: Path) -> None:
    rows = write_claims(tmp_path, ALL, drawn(0), sections={}, notes=[])
    printed = verdict_counts(rows)
    for verdict in {row["verdict"] for row in read(tmp_path)}:
        counts = [
            sum(row["verdict"] == verdict and row["footing"] in (footing, "both") for row in read(tmp_path))
            for footing in ("even", "released")
        ]
        assert re.search(rf"{verdict} +{counts[0]} +{counts[1]}$", printed, re.MULTILINE), printed


def test_claims_by_construction_are_marked_and_counted_separately(folders: list[Path]) -> None:
    for folder in folders:
        text = (folder / FILES[1]).read_text(encoding="utf-8")
        assert "- 1: ∎ FROM SIZES ALONE." in text
        assert {row["claim"] for row in read(folder) if row["given"]} == {"18-memory"}
    rows = judged([claim for claim in ALL if claim.key == "18-memory"], {"18": drawn(0)["18"].assign(mb=1.0)})
    assert re.search(r"✓ reproduced +1 +1\nof these by construction +1 +1\n", verdict_counts(rows))


def test_lines_of_prose_fit_a_page_and_cells_have_no_bar(text: str) -> None:
    assert max(len(line) for line in text.splitlines() if not line.startswith(("|", "<"))) <= 110
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
