"""Names that fit into a table, and tables that fit on a line."""

import pytest

from sim.sweeps.short_names import SettingNames, legend, short_names


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


def test_a_path_is_shortened_to_its_last_part_if_unique() -> None:
    assert short_names(["traces/of/a/pocket.trace"], 12) == {"traces/of/a/pocket.trace": "pocket.trace"}
    assert [*short_names(["traces/of/a/x.trace", "traces/of/b/x.trace"], 12).values()] == ["x.trace…a", "x.trace…b"]
    assert short_names(["traces/of/a/x.trace", "x.trace"], 12)["traces/of/a/x.trace"] == "x.trace…a"


def test_a_settings_text_leaves_out_axes_without_a_value() -> None:
    settings = [(None, 2.0, True), (0.25, None, False), (None, None, None)]
    names = SettingNames(("cache.share", "cache.gb", "check"), settings, 12)
    assert [names.text(each) for each in settings] == [
        "cache.gb=2, check=true",
        "cache.share=0.25, check=false",
        "all runs",
    ]
