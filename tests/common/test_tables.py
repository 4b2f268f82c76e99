"""Tables that people read."""

import math

import numpy as np
import pytest

from common.tables import (
    MISSING,
    byte_unit,
    name_table,
    number,
    numbers,
    percent,
    record_table,
    size,
    text_table,
    time_unit,
)


@pytest.mark.parametrize("value", [None, math.nan, np.nan, np.float32("nan")])
def test_a_missing_value_is_a_dash(value: float | None) -> None:
    assert number(value, ".1f") == MISSING == "–"
    assert numbers([0.5, value, 1], ".0f", 100) == "50 / – / 100"


def test_numbers_have_the_unit_and_the_digits_asked_for() -> None:
    assert number(0.12345, ".1f", 1e3) == "123.5"
    assert number(-0.25, "+.0%") == "-25%"
    assert number(0, "+.0f") == "+0"


def test_shares_are_written_in_percent_with_a_true_minus() -> None:
    assert [percent(share) for share in (-0.479, 0.25, 0.0, None)] == ["−48 %", "+25 %", "+0 %", MISSING]
    assert percent(-0.1234, 1, signed=False) == "−12.3 %"
    assert percent(0.725, 2, signed=False) == "72.50 %"


@pytest.mark.parametrize("form", [".0f", ".2f", "+.1f", ".0%", "+.1%"])
@pytest.mark.parametrize("value", [3e-12, -7e-5, 0.004, 0.04, 1e-300])
def test_a_nonzero_number_is_never_printed_as_zero(value: float, form: str) -> None:
    shown = number(value, form)
    assert float(shown.rstrip("%")) / (100 if "%" in form else 1) == pytest.approx(value, rel=0.5)
    assert shown.startswith("+") == (form.startswith("+") and value > 0)
    assert shown.endswith("%") == form.endswith("%")
    assert not set(number(0.0, form)) & set("123456789")


@pytest.mark.parametrize(
    ("seconds", "name", "texts"),
    [
        ([0.064, 0.1587, 0.0045], "ms", ["64.00", "158.70", "4.50"]),
        ([2.5e-6, None, 0.0], "µs", ["2.50", MISSING, "0.00"]),
        ([1234.5, 77.0], "s", ["1234", "77"]),
        ([0.0, None], "ms", ["0.0", MISSING]),
    ],
)
def test_times_are_in_the_unit_of_the_middle_one(seconds: list[float | None], name: str, texts: list[str]) -> None:
    unit = time_unit(seconds)
    assert (unit.name, [unit.text(each) for each in seconds]) == (name, texts)


def test_bytes_are_in_a_unit_that_fits() -> None:
    assert [byte_unit([value]).name for value in (5, 5e3, 5e6, 5e9)] == ["B", "kB", "MB", "GB"]
    assert [size(value) for value in (0, 12, 1536, 352e6, 5.64e9)] == ["0 B", "12 B", "1.54 kB", "0.35 GB", "5.64 GB"]


def test_texts_are_aligned_left_and_numbers_right() -> None:
    table = text_table([["lru", "1.5"], ["finemoe", "10.25"]], ["policy", "TPOT\nms"])
    assert table.splitlines() == [
        "policy      TPOT",
        "              ms",
        "--------  ------",
        "lru          1.5",
        "finemoe    10.25",
    ]


def test_text_that_looks_like_a_number_is_printed_as_it_is() -> None:
    assert "1e3  007" in " ".join(text_table([["1e3", "007"]], ["a", "b"]).split("\n")[-1:])


def test_all_columns_may_be_numbers_or_texts() -> None:
    rows = [["words", "1"]]
    assert text_table(rows, ["per prompt", "mean"], texts=0).splitlines()[-1] == "       words       1"
    assert text_table(rows, ["name", "what"], texts=2).splitlines()[-1] == "words   1"


def test_records_are_rows_below_their_keys() -> None:
    records = [{"name": "a", "count": 1}, {"name": "b", "count": 20}]
    assert record_table(records) == text_table([["a", 1], ["b", 20]], ["name", "count"])


def test_a_name_is_printed_beside_its_value() -> None:
    assert name_table([("set", "demo"), ("prompts", 48)]).splitlines() == ["set      demo", "prompts  48"]
