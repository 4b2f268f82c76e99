"""Texts and tables that fit into a line."""

import numpy as np
import pytest

from common.folding import folded, folded_name
from common.wide_tables import wide_table


def test_folding_a_name_loses_nothing() -> None:
    name = "my_package.with_a_long_name.and_a_module:the_policy,setting=0.5+lhd,classes=8"
    name += "+a_module_whose_name_is_longer_than_a_line:a policy in words"
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


def test_a_number_stays_with_its_unit() -> None:
    assert folded("the cache holds 12 GB of experts", 18).split("\n") == ["the cache holds", "12 GB of experts"]
