"""docs/trace-format.md has every column and key of the format, in order, with its type."""

import re
from dataclasses import fields

import pyarrow as pa

from policies.types import ModelShape
from tests.support.documents import ROOT
from tests.support.trace_helpers import small_meta, small_shape
from traces.format.schema import EMBEDDINGS, KINDS, META, REQUESTS, TOKENS, FileInfo, TraceMeta

DOCUMENT = (ROOT / "docs" / "trace-format.md").read_text()
SIZES = {15: "L·J", 6: "L·K", 7: "h"}
SHAPE = small_shape(layers=3, experts=5, top_k=2, hidden=7)


def fullest(**changes: object) -> TraceMeta:
    known = {"shape": SHAPE, "residency": True, "prompt_text": True, "embedding": True, "lookahead": (1,)}
    return small_meta(**(known | changes))


def table(heading: str, number: int = 0) -> list[list[str]]:
    """The cells of a table below a heading, without its first two lines."""
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[number].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows]


def documented(heading: str, number: int = 0) -> dict[str, str]:
    return {name: kind for name, kind, _ in table(heading, number)}


def described(field: pa.Field) -> str:
    kind = field.type
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.value_type}[{SIZES[kind.list_size]}]".replace("halffloat", "float16")
    return str(kind).replace("double", "float64") + (" or null" if field.nullable else "")


def test_every_column_is_documented_with_its_type() -> None:
    for file, schema in fullest().schemas.items():
        columns = {field.name.replace("lookahead_1", "lookahead_D"): described(field) for field in schema}
        assert documented(file) == columns
        assert [*documented(file)] == [*columns]


def test_experts_are_wider_where_the_document_says_so() -> None:
    many = fullest(shape=small_shape(experts=257)).schemas[TOKENS].field("experts").type.value_type
    skipped = fullest(all_executed=False).schemas[TOKENS].field("experts").type.value_type
    assert (str(many), str(skipped)) == ("uint16", "int16")
    assert f"`experts` is {many}" in DOCUMENT
    assert f"`experts` is then {skipped}" in DOCUMENT


def test_every_key_of_the_description_is_documented_with_its_type() -> None:
    meta = fullest(
        shape=small_shape(expert_bytes_by_layer=(1, 2, 3)),
        all_executed=False,
        files={TOKENS: FileInfo(bytes=1, sha256="")},
    )
    written = meta.to_json()
    keys = documented(META)
    assert keys.keys() == written.keys()
    for name, value in written.items():
        assert type(value).__name__.replace("NoneType", "null") in keys[name].split(" or "), name
    sizes = documented(META, 1)
    assert [*sizes] == [each.name for each in fields(ModelShape)]
    assert {name: type(value).__name__ for name, value in written["shape"].items()} == sizes


def test_every_kind_and_file_is_documented() -> None:
    assert tuple(row[0] for row in table("Kinds of traces")) == KINDS
    files = DOCUMENT.split("\n## ")[0]
    assert re.findall(r"^\| \[`([a-z.]+)`\]", files, re.MULTILINE) == [META, REQUESTS, TOKENS, EMBEDDINGS]
