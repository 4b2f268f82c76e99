"""`finemoe sim predict`: what it takes, what it writes, and the mistakes that it tells."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from common.errors import UserError
from sim.__main__ import main
from sim.forecast.plan_scores import at_distance
from sim.forecast.prediction_quality import distances_of
from tests.support.run_helpers import EXPERT_BYTES


def test_a_distance_is_set_where_a_policy_has_one_and_the_spec_does_not_state_it():
    assert at_distance("finemoe", 5) == "finemoe,prefetch_distance=5"
    assert at_distance("finemoe,capacity=9+lhd,classes=8", 5) == "finemoe,capacity=9,prefetch_distance=5+lhd,classes=8"
    assert at_distance("finemoe,prefetch_distance=2", 5) == "finemoe,prefetch_distance=2"
    assert at_distance("mixtral-offloading", 5) == "mixtral-offloading"


@pytest.mark.parametrize(
    ("text", "distances"),
    [("3", [3]), ("1..4", [1, 2, 3, 4]), ("1,2,4", [1, 2, 4]), ("4,1..2,2", [1, 2, 4]), (None, [1, 2, 3, 4, 5])],
)
def test_distances_are_a_number_a_range_or_a_list(text, distances):
    assert distances_of(text, layers=5) == distances


@pytest.mark.parametrize("text", ["", "0", "6", "3..2", "1..6", "a", "1,,2", "-1", "1.5"])
def test_a_wrong_distance_is_an_error_with_the_allowed_range(text):
    with pytest.raises(UserError, match=r"^distance: .* between 1 and 5$"):
        distances_of(text, layers=5)


def predict(trace, *more, policies=("finemoe", "hit-count", "mixtral-offloading")):
    return main(["predict", str(trace), *[word for name in policies for word in ("--policy", name)], *map(str, more)])


def test_the_command_prints_and_writes_the_same_every_time(trace, tmp_path, capsys):
    words = ("--distance", "1..2", "--overwrite", "--out")
    assert predict(trace, "--plot", tmp_path / "recall.svg", *words, tmp_path / "one.parquet") == 0
    table = capsys.readouterr().out
    assert table.endswith(f"\nwrote {tmp_path / 'one.parquet'}\nwrote {tmp_path / 'recall.svg'}\n")
    assert predict(trace, *words, tmp_path / "two.parquet") == 0
    again = table.replace("one.parquet", "two.parquet").removesuffix(f"wrote {tmp_path / 'recall.svg'}\n")
    assert capsys.readouterr().out == again
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert (tmp_path / "recall.svg").stat().st_size > 0
    assert {"mixtral-offloading", "recall@K"} <= set(table.split())

    frame = pd.read_parquet(tmp_path / "one.parquet")
    keys = ["policy", "distance", "prefill", "layer"]
    assert not frame.duplicated(keys).any()
    # Four layers and two kinds of iteration; two policies at two distances and one at its own.
    assert len(frame) == 4 * 2 * (2 + 2 + 1)
    assert set(frame.loc[frame["policy"] == "mixtral-offloading", "distance"]) == {1}
    assert (frame["useful_bytes"] == frame["hits"] * EXPERT_BYTES).all()
    meta = json.loads(pq.read_schema(tmp_path / "one.parquet").metadata[b"finemoe_lab"])
    assert (meta["distances"], meta["requests"]) == ([1, 2], 3)

    assert predict(trace, "--distance", "1..2", "--json") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = pd.DataFrame(json.loads(captured.out))
    pd.testing.assert_frame_equal(rows[[*keys, "hits"]], frame[[*keys, "hits"]])
    np.testing.assert_allclose(rows["recall"].astype(float), frame["recall"])


def test_a_policy_of_a_fixed_distance_is_shown_at_those_asked_for(trace, capsys):
    """`moe-infinity` plans anew at each gate, up to three layers ahead; `mixtral-offloading` one layer ahead alone."""
    policies = ("moe-infinity,prefetch_distance=3", "mixtral-offloading")
    shown = {}
    for asked in (None, "2", "1..2"):
        assert predict(trace, "--json", *(("--distance", asked) if asked else ()), policies=policies) == 0
        rows = json.loads(capsys.readouterr().out)
        shown[asked] = [sorted({row["distance"] for row in rows if row["policy"] == name}) for name in policies]
    assert shown == {None: [[1, 2, 3], [1]], "2": [[2], [1]], "1..2": [[1, 2], [1]]}


def test_requests_that_run_together_have_fewer_events(trace, capsys):
    events = []
    for size in (1, 3):
        assert predict(trace, "--json", "--distance", 2, "--batch-size", size, policies=("finemoe",)) == 0
        events.append({row["events"] for row in json.loads(capsys.readouterr().out) if not row["prefill"]})
    assert events == [{9}, {3}]


@pytest.mark.parametrize(
    ("more", "policies", "reported"),
    [
        (("--distance", "9"), ("finemoe",), "between 1 and 4"),
        (("--train-split", "1"), ("finemoe",), "--train-split: must be at least 0 and below 1, not 1.0"),
        (("--requests", "0"), ("finemoe",), "--requests: must be at least 1, not 0"),
        (("--seed", "-1"), ("finemoe",), "--seed: must be at least 0, not -1"),
        (("--batch-size", "0"), ("finemoe",), "--batch-size: must be at least 1, not 0"),
        (("--plot", "recall.gif"), ("finemoe",), ".png, .svg or .pdf"),
        ((), ("lru",), "predicts nothing"),
        ((), ("finemoo",), "finemoe"),
        ((), ("finemoe,prefetch_distance=9",), "must be from 1 to 4"),
    ],
)
def test_mistakes_are_reported_in_one_line(trace, capsys, more, policies, reported):
    assert predict(trace, *more, policies=policies) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert reported in captured.err


def test_an_existing_file_is_not_overwritten(trace, capsys, tmp_path):
    taken = tmp_path / "rows.parquet"
    taken.touch()
    assert predict(trace, "--out", taken) == 2
    assert "exists already" in capsys.readouterr().err
    assert taken.stat().st_size == 0
