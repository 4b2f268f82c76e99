"""Tables that people read."""

import math

import numpy as np
import pytest

from common.tables import MISSING, name_table, number, numbers, record_table, text_table


@pytest.mark.parametrize("value", [None, math.nan, np.nan, np.float32("nan")])
def test_what_is_missing_is_a_dash(value: float | None) -> None:
    assert number(value, ".1f") == MISSING == "–"
    assert numbers([0.5, value, 1], ".0f", 100) == "50 / – / 100"


def test_numbers_have_the_unit_and_the_digits_asked_for() -> None:
    assert number(0.12345, ".1f", 1e3) == "123.5"
    assert number(-0.25, "+.0%") == "-25%"
    assert number(0, "+.0f") == "+0"


def test_texts_are_aligned_left_and_numbers_right() -> None:
    table = text_table([["lru", "1.5"], ["finemoe", "10.25"]], ["policy", "TPOT\nms"])
    assert table.splitlines() == [
        "policy      TPOT",
        "              ms",
        "--------  ------",
        "lru          1.5",
        "finemoe    10.25",
    ]


def test_what_looks_like_a_number_is_printed_as_it_is() -> None:
    assert "1e3  007" in " ".join(text_table([["1e3", "007"]], ["a", "b"]).split("\n")[-1:])


def test_all_columns_may_be_numbers_or_texts() -> None:
    rows = [["words", "1"]]
    assert text_table(rows, ["per prompt", "mean"], texts=0).splitlines()[-1] == "       words       1"
    assert text_table(rows, ["name", "what"], texts=2).splitlines()[-1] == "words   1"


def test_records_are_rows_below_their_keys() -> None:
    records = [{"name": "a", "count": 1}, {"name": "b", "count": 20}]
    assert record_table(records) == text_table([["a", 1], ["b", 20]], ["name", "count"])


def test_a_name_stands_beside_its_value() -> None:
    assert name_table([("set", "demo"), ("prompts", 48)]).splitlines() == ["set      demo", "prompts  48"]
