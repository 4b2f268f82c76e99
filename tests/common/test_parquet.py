"""The one Parquet encoding, and tables of pandas in it."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import UserError
from common.parquet import parquet_sink, read_frame, write_frame

ROOT = Path(__file__).parents[2]
FRAME = pd.DataFrame(
    {
        "policy": ["lru", "finemoe", "lru"],
        "time_s": [0.1, np.nan, 1 / 3],
        "count": [1, 2, 3],
        "flag": [True, False, True],
        "experts": [[1, 2], [], [3]],
    }
)
META = {"seed": 1, "trace": "a.trace"}


def test_a_table_reads_back_with_its_metadata(tmp_path: Path) -> None:
    write_frame(tmp_path / "a.parquet", FRAME, META)
    frame, meta = read_frame(tmp_path / "a.parquet")
    assert meta == META
    frame["experts"] = frame["experts"].map(list)
    pd.testing.assert_frame_equal(frame, FRAME, check_exact=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet").drop(columns="experts"), FRAME.iloc[:, :4])


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_frame(tmp_path / f"{name}.parquet", FRAME, META)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_schema_gives_types_that_values_do_not(tmp_path: Path) -> None:
    frame = pd.DataFrame({"policy": ["lru"], "experts": [()]})
    schema = pa.schema({"policy": pa.large_string(), "experts": pa.list_(pa.int64())})
    for rows in (1, 0):
        write_frame(tmp_path / "a.parquet", frame.iloc[:rows], META, schema)
        assert pq.read_schema(tmp_path / "a.parquet").remove_metadata() == schema
    write_frame(tmp_path / "b.parquet", frame, META)
    assert pq.read_schema(tmp_path / "b.parquet").field("experts").type == pa.list_(pa.null())


def test_only_columns_that_repeat_have_a_dictionary(tmp_path: Path) -> None:
    write_frame(tmp_path / "a.parquet", FRAME, META)
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    encoded = {column.path_in_schema: "RLE_DICTIONARY" in column.encodings for column in columns}
    assert encoded == {
        "policy": True,
        "time_s": False,
        "count": False,
        "flag": False,
        "experts.list.element": False,
    }


def test_a_flipped_bit_in_any_page_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    """Dictionaries are pages too; a header may have a bit that nothing is read from."""
    path = tmp_path / "a.parquet"
    write_frame(path, FRAME, META)
    whole, expected = path.read_bytes(), read_frame(path)[0].to_string()
    group = pq.read_metadata(path).row_group(0)
    last = group.column(group.num_columns - 1)
    places = range(4, last.data_page_offset + last.total_compressed_size)
    said = []
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert read_frame(path)[0].to_string() == expected
        except UserError as error:
            said.append(str(error))
    assert all(text.startswith(f"{path}: cannot be read: ") and "\n" not in text for text in said)
    assert len(said) > 0.8 * len(places)


def test_a_flipped_bit_in_the_footer_is_never_a_traceback(tmp_path: Path) -> None:
    """Parquet has no checksum for it, so that it may go unseen, but not crash."""
    path = tmp_path / "a.parquet"
    write_frame(path, FRAME, META)
    whole = path.read_bytes()
    for place in range(len(whole) // 3, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with suppress(UserError):
            read_frame(path)


def test_an_error_between_two_tables_is_not_replaced_by_one_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is closed all the same, and may have no room for its footer."""
    close, closed = pq.ParquetWriter.close, []

    def full(writer: pq.ParquetWriter) -> None:
        close(writer)
        closed.append(writer)
        raise OSError("no room for the footer")

    monkeypatch.setattr(pq.ParquetWriter, "close", full)
    table = pa.table({"value": [1.0, 2.0]})

    def broken_off(*, after: int) -> None:
        with parquet_sink(tmp_path / "a.parquet", table.schema) as sink:
            for _ in range(after):
                sink.write_table(table)
            raise KeyboardInterrupt

    for tables in (0, 2):
        with pytest.raises(KeyboardInterrupt):
            broken_off(after=tables)
    assert len(set(closed)) == 2


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet at all", None])
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    if content is None:
        (tmp_path / "a.parquet").mkdir()
    else:
        (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read: "):
        read_frame(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: is missing$"):
        read_frame(tmp_path / "b.parquet")


def test_a_table_written_by_another_program_is_one_line(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read: it has no metadata 'finemoe_lab'"):
        read_frame(tmp_path / "a.parquet")


FULL_DISK = """
import resource, sys
from pathlib import Path
import pandas as pd
from common.errors import UserError
from common.files import new_folder, replacing
from common.parquet import write_frame
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # no file may become larger: EFBIG, as ENOSPC
folder, frame = Path(sys.argv[1]), pd.DataFrame({"value": [number / 7 for number in range(10000)]})
try:
    with new_folder(folder / "results", "results") as partial:
        write_frame(partial / "a.parquet", frame, {})
except UserError as error:
    print(error)
try:
    with replacing(folder / "b.parquet", "the table") as partial:
        write_frame(partial, frame, {})
except UserError as error:
    print(error)
"""


def test_a_table_that_the_disk_has_no_room_for_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines() == [
        f"{tmp_path}/results: results could not be written: File too large",
        f"{tmp_path}/b.parquet: the table could not be written: File too large",
    ]
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
