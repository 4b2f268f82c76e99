"""What a comparison's document says, held against its table, both read without the project's code."""

import csv
import re
from pathlib import Path

import numpy as np


def tables(text: str) -> dict[str, list[list[str]]]:
    """The cells of each Markdown table, by the heading or paragraph above it."""
    found: dict[str, list[list[str]]] = {}
    above = ""
    for block in text.split("\n\n"):
        if block.startswith("|"):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
            found[above] = [rows[0], *rows[2:]]
        else:
            above = block
    return found


def csv_rows(docs: Path) -> list[dict[str, str]]:
    with (docs / "comparison" / "runs.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def times_checked(docs: Path) -> int:
    """Hold every cell of the tables of times against the CSV; the answer is how many there were."""
    rows = {(row["trace"], row["machine"], row["system"]): [] for row in csv_rows(docs)}
    for row in csv_rows(docs):
        rows[row["trace"], row["machine"], row["system"]].append(row)
    checked = 0
    for title, (headers, *body) in tables((docs / "comparison.md").read_text(encoding="utf-8")).items():
        if not re.match(r"### (TPOT|TTFT): ", title):
            continue
        metric, trace = title.removeprefix("### ").split(": ")
        for name, *cells in body:
            for machine, cell in zip(headers[1:], cells, strict=True):
                own = rows[trace, machine, name.removesuffix(" †")]
                seconds = [row[f"{metric.lower()}_s_mean"] for row in own]
                shown = [] if cell == "–" else cell.split(" / ")
                assert len(shown) == (len(own) if any(seconds) else 0)
                for text, value in zip(shown, seconds, strict=False):
                    assert text == "–" if not value else abs(float(text) - float(value) * 1e3) <= rounding(text)
                checked += 1
    return checked


def rounding(text: str) -> float:
    return 0.5001 * 10.0 ** -len(text.partition(".")[2])


def orders_checked(docs: Path) -> int:
    """Hold every order against the means in the CSV; the answer is how many there were."""
    text = (docs / "comparison.md").read_text(encoding="utf-8")
    letters = dict(re.findall(r"\*\*(\w)\*\*\s([^,;]+)", text.replace("\n", " ")))
    means: dict[tuple[str, ...], float] = {}
    sizes: dict[str, str] = {}
    for row in csv_rows(docs):
        sizes[f"{float(row['cache_gb']):g}"] = row["cache_gb"]
        for metric in ("tpot", "ttft"):
            if row[f"{metric}_s_mean"]:
                key = (row["trace"], row["machine"], row["system"], metric, row["cache_gb"])
                means[key] = float(row[f"{metric}_s_mean"])
    (orders,) = (rows for rows in tables(text).values() if rows[0][:2] == ["trace", "machine"])
    trace, checked = "", 0
    for name, machine, *cells in orders[1:]:
        trace = re.sub(r" <sup>.*", "", name) or trace
        for header, cell in zip(orders[0][2:], cells, strict=True):
            metric, gb = re.fullmatch(r"(\w+), (\S+) GB", header).groups()
            there = {
                letter: means[key]
                for letter, system in letters.items()
                if (key := (trace, machine, system.strip(), metric.lower(), sizes[gb])) in means
            }
            if cell == "–":
                assert not there
                continue
            order = re.sub(r"[()`]", "", cell.split()[0])
            assert sorted(order) == sorted(there)
            assert np.all(np.diff([there[letter] for letter in order]) >= 0)
            checked += 1
    return checked
