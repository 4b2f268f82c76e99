"""Names that fit into a table, and tables that fit on a line."""

import numpy as np
import pytest

from sim.sweeps.short_names import SettingNames, folded_name, legend, short_names
from sim.sweeps.wide_tables import wide_table


@pytest.mark.parametrize("width", [8, 12, 24])
def test_short_names_fit_and_differ(width: int) -> None:
    names = [
        "lru",
        "a/pocket.trace",
        "b/pocket.trace",
        "c/other.trace",
        "finemoe,capacity=1000",
        "finemoe,capacity=2000",
    ]
    names += ["other.trace", "a.very.long.package.name:policy", "folder/", "x" * 30, "x" * 31]
    short = short_names(names, width)
    assert list(short) == names
    assert max(map(len, short.values())) <= width
    assert len(set(short.values())) == len(names)
    assert {line.partition(" = ")[2] for line in legend(short)} == {name for name in names if short[name] != name}


def test_of_a_path_the_last_part_is_enough_if_no_other_has_it() -> None:
    assert short_names(["traces/of/a/pocket.trace"], 12) == {"traces/of/a/pocket.trace": "pocket.trace"}
    assert [*short_names(["traces/of/a/x.trace", "traces/of/b/x.trace"], 12).values()] == ["x.trace…a", "x.trace…b"]
    assert short_names(["traces/of/a/x.trace", "x.trace"], 12)["traces/of/a/x.trace"] == "x.trace…a"


def test_a_setting_leaves_out_what_it_has_no_value_of() -> None:
    settings = [(None, 2.0, True), (0.25, None, False), (None, None, None)]
    names = SettingNames(("cache.share", "cache.gb", "check"), settings, 12)
    assert [names.text(each) for each in settings] == [
        "cache.gb=2, check=true",
        "cache.share=0.25, check=false",
        "all runs",
    ]


def test_folding_a_name_loses_nothing() -> None:
    name = "my_package.with_a_long_name.and_a_module:the_policy,setting=0.5+lhd,classes=8"
    lines = folded_name(name, 20, "").split("\n")
    assert "".join(lines) == name
    assert max(map(len, lines)) <= 20
    assert len(lines) > 3


@pytest.mark.parametrize("seed", range(10))
def test_a_wide_table_is_as_wide_as_allowed_and_has_every_column_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = [["h" * rng.integers(1, 12), "c" * rng.integers(1, 12), "a\nbb"] for _ in range(20)]
    tables = list(wide_table(["policy", "lru", "lfu"], columns, 60))
    assert max(len(line) for table in tables for line in table.splitlines()) <= 60
    assert [word for table in tables for word in table.splitlines()[0].split()[1:]] == [column[0] for column in columns]
