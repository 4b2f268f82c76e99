"""Published workloads are read without loss, and their mistakes are reported."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import traces.workloads.workload_files
from common.errors import UserError
from tests.support import shared_data
from traces.workloads.arrivals import Workload, describe
from traces.workloads.workload_files import read_workload, write_workload

DATA = shared_data.DATA / "azure"

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def read(tmp_path: Path, text: str | bytes, name: str = "file.csv") -> Workload:
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_workload(file)


def assert_rows(found: Workload, arrival_s: list[float], prompt: list[int], output: list[int]) -> None:
    assert found.arrival_s.tolist() == arrival_s
    assert found.prompt_tokens.tolist() == prompt
    assert found.output_tokens.tolist() == output


# The formats


def test_azure_2023_has_seven_digits_of_a_second(tmp_path: Path) -> None:
    text = AZURE + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:46.6805901,396,109\n"
    text += "2023-11-16 18:16:46.6805900,5,6\n"
    assert_rows(read(tmp_path, text), [0, 1e-7, 60], [374, 396, 5], [44, 109, 6])


def test_azure_2024_has_a_time_zone_and_no_fraction_on_the_full_second(tmp_path: Path) -> None:
    text = AZURE + "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,2399,6\n"
    text += "2024-05-10 00:00:01.000001+00:00,76,15\n"
    assert_rows(read(tmp_path, text), [0, 0.99007, 0.990071], [2162, 2399, 76], [5, 6, 15])


def test_a_time_in_another_zone_is_the_same_moment(tmp_path: Path) -> None:
    text = AZURE + "2024-05-10 00:00:00+00:00,1,1\n2024-05-10 02:00:01+02:00,1,1\n"
    assert_rows(read(tmp_path, text), [0, 1], [1, 1], [1, 1])


def test_burstgpt_rows_without_a_response_are_failures(tmp_path: Path) -> None:
    text = BURST + "5,ChatGPT,472,0,472,Conversation log\n45,ChatGPT,1087,230,1317,Conversation log\n"
    text += "45.5,ChatGPT,3,0,3,API log\n118,GPT-4,417,276,693,Conversation log\n"
    found = read(tmp_path, text)
    assert_rows(found, [0, 73], [1087, 417], [230, 276])
    assert found.dropped == describe(found)["dropped"] == 2


def test_burstgpt_may_have_more_columns_in_another_order(tmp_path: Path) -> None:
    text = "Session ID,Response tokens,Timestamp,Elapsed time,Request tokens\nx,3,1.25,9,4\nx,5,2.5,9,6\n"
    assert_rows(read(tmp_path, text), [0, 1.25], [4, 6], [3, 5])


def test_mooncake_counts_in_milliseconds(tmp_path: Path) -> None:
    text = '{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n'
    text += '{"timestamp": 3001, "input_length": 7322, "output_length": 490, "hash_ids": []}\n\n'
    assert_rows(read(tmp_path, text, "mooncake.jsonl"), [0, 3.001], [6758, 7322], [500, 490])


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_line_ends_and_byte_order_marks_do_not_matter(tmp_path: Path, start: str, line: str, end: str) -> None:
    text = start + AZURE + "2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:47.68,5,6" + end
    assert_rows(read(tmp_path, text.replace("\n", line)), [0, 1], [374, 5], [44, 6])
    text = start + '{"timestamp": 5, "input_length": 6, "output_length": 7}' + end
    assert_rows(read(tmp_path, text.replace("\n", line)), [0], [6], [7])


def test_our_own_file_comes_back(tmp_path: Path) -> None:
    arrival_s = np.array([0.0, 0.1, 0.1, 1 / 3])
    lengths = {"prompt_tokens": np.array([1, 2, 3, 2**31 - 1]), "output_tokens": np.array([4, 3, 2, 1])}
    write_workload(
        tmp_path / "a.parquet", Workload(arrival_s=arrival_s, **lengths, source="müde", dropped=3), {"seed": 1}
    )
    found = read_workload(tmp_path / "a.parquet")
    assert_rows(found, arrival_s.tolist(), *(one.tolist() for one in lengths.values()))
    assert (found.source, found.dropped) == ("müde", 3)


def test_a_file_is_read_the_same_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = BURST + "".join(f"{second // 3},m,{second % 7},{second % 5},0,l\n" for second in range(100))
    whole = read(tmp_path, text)
    monkeypatch.setattr(traces.workloads.workload_files, "_CHUNK", 7)
    chunked = read(tmp_path, text)
    assert_rows(chunked, *(getattr(whole, name).tolist() for name in ("arrival_s", "prompt_tokens", "output_tokens")))
    assert chunked.dropped == whole.dropped == sum(second % 7 == 0 or second % 5 == 0 for second in range(100))
    with pytest.raises(
        UserError, match=r"line 102, field Timestamp: must not be earlier than in the row before, but is 31 s earlier$"
    ):
        read(tmp_path, text + "2,m,1,1,0,l\n")


# Mistakes: lines count from 1, with the header

GOOD = "2023-11-16 18:15:46.68,374,44\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "is empty"),
        ("\n", "line 1: must name the columns"),
        (
            "a,b\n1,2\n",
            "the columns a, b fit none of the known formats (.*Mooncake JSONL: timestamp, .*)",
        ),
        (
            "TIMESTAMP,ContextTokens\n",
            "field GeneratedTokens: is missing; Azure LLM inference trace has the columns TIMESTAMP, .*",
        ),
        ("Timestamp,Request tokens\n", "field Response tokens: is missing; BurstGPT has the columns Timestamp, .*"),
        (AZURE, "there is no request"),
        (AZURE + "2023-11-16 18:15:46.68,374,0\n", "there is no request: none of 1 rows has a prompt and an output"),
        (AZURE + GOOD + "yesterday,374,44\n", "line 3, field TIMESTAMP: must be a time such as .*, not 'yesterday'"),
        (AZURE + GOOD + "\n,374,44\n", "line 4, field TIMESTAMP: is missing"),
        (AZURE + GOOD + "2023-11-16 18:15:47.68\n", "line 3, field ContextTokens: is missing"),
        (AZURE + GOOD.replace("374", "x"), "line 2, field ContextTokens: must be a whole number .*, not 'x'"),
        (AZURE + GOOD.replace("374", "1.5"), "line 2, field ContextTokens: must be a whole number .*, not '1.5'"),
        (AZURE + GOOD.replace("374", "1e300"), "line 2, field ContextTokens: must be a whole number .*, not '1e300'"),
        (AZURE + GOOD.replace("44", "-1"), "line 2, field GeneratedTokens: must be a whole number .*, not '-1'"),
        (AZURE + GOOD.replace("44", "nan"), "line 2, field GeneratedTokens: must be a whole number .*, not 'nan'"),
        (AZURE + GOOD.replace("44", "44,1"), "line 2: must have 3 fields, not 4"),
        (
            AZURE + GOOD + GOOD.replace("46.68", "46.18"),
            "line 3, field TIMESTAMP: must not be earlier than in the row before, but is 0.5 s earlier",
        ),
        (AZURE + 'a"b",1,1\n"', "cannot be read: .*"),
        (
            BURST + '1,"two\nlines",1,1,2,l\n2,m,x,1,2,l\n',
            "line 4, field Request tokens: must be a whole number .*, not 'x'",
        ),
        (BURST + "-1,m,1,1,1,l\n", "line 2, field Timestamp: must be a non-negative number of seconds.*, not '-1'"),
        (BURST + "inf,m,1,1,1,l\n", "line 2, field Timestamp: must be a non-negative number of seconds.*, not 'inf'"),
        (
            BURST + "1e300,m,1,1,1,l\n",
            "line 2, field Timestamp: must be a non-negative number of seconds.*, not '1e300'",
        ),
        ('{"timestamp": 1, "input_length": 2}', "line 1, field output_length: is missing"),
        ('{"timestamp": null}', "line 1, field timestamp: is missing"),
        ('{"timestamp": true}', "line 1, field timestamp: must be a non-negative number of milliseconds.*, not 'True'"),
        ('{"timestamp": 1\n', "line 1: is not JSON: .*"),
        ('{"timestamp": ' + "[" * 100_000, "line 1: is not JSON: .*"),
        ('{"timestamp": 1, "input_length": 2, "output_length": 2}\n[1]\n', "line 2: is not a JSON object"),
        (b"\xff\xfe\x00", "cannot be read: .*"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str | bytes, error: str) -> None:
    pattern = re.escape(error).replace(r"\.\*", ".*")
    with pytest.raises(UserError) as raised:
        read(tmp_path, text)
    assert re.fullmatch(re.escape(f"{tmp_path / 'file.csv'}: ") + pattern, str(raised.value))


@pytest.mark.parametrize(
    ("column", "values", "error"),
    [
        ("arrival_s", [0.0, -1.0], "row 1, field arrival_s: must be finite and at least 0, not -1.0"),
        ("arrival_s", [0.0, float("nan")], "row 1, field arrival_s: must be finite and at least 0, not nan"),
        ("arrival_s", [2.0, 1.0], "row 1, field arrival_s: must be at least that of the row before, not 1.0"),
        ("prompt_tokens", [0, 1], "row 0, field prompt_tokens: must be at least 1, not 0"),
        ("output_tokens", [1, -3], "row 1, field output_tokens: must be at least 1, not -3"),
    ],
)
def test_a_broken_file_of_our_own_is_named_too(tmp_path: Path, column: str, values: list[Any], error: str) -> None:
    columns = {"arrival_s": [0.0, 1.0], "prompt_tokens": [1, 1], "output_tokens": [1, 1]} | {column: values}
    pq.write_table(pa.table(columns, schema=traces.workloads.workload_files.SCHEMA), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=re.escape(error)):
        read_workload(tmp_path / "a.parquet")


def test_another_parquet_file_is_not_taken_for_a_workload(tmp_path: Path) -> None:
    pq.write_table(pa.table({"arrival_s": [1.0]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: field arrival_s: must be double, not double or null"):
        read_workload(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_text("no")
    with pytest.raises(UserError, match=r"b\.parquet: cannot be read"):
        read_workload(tmp_path / "b.parquet")
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(UserError, match=f"^{path}: is not a file$"):
            read_workload(path)


# The real ones


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not there; FINEMOE_DATA names another place")
@pytest.mark.parametrize(
    ("name", "requests", "rate", "prompt", "output"),
    [("conv", 19366, 5.530, 1154.7, 211.1), ("code", 8819, 2.566, 2047.8, 27.9)],
)
def test_the_azure_traces_of_2023_are_read_whole(
    name: str, requests: int, rate: float, prompt: float, output: float
) -> None:
    """Lines of the files, and means that `awk` gives."""
    found = describe(read_workload(DATA / f"AzureLLMInferenceTrace_{name}.csv"))
    assert (found["requests"], found["dropped"]) == (requests, 0)
    assert found["rate_per_s"] == pytest.approx(rate, abs=5e-4)
    assert found["prompt_tokens"]["mean"] == pytest.approx(prompt, abs=0.05)
    assert found["output_tokens"]["mean"] == pytest.approx(output, abs=0.05)
