"""Properties of all valid traces, and changes to files that are always detected."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.types import RecordedRequest
from tests.support.slow_cases import slow_but
from tests.support.trace_helpers import (
    PLAN,
    Pair,
    assert_same,
    content,
    random_request,
    small_meta,
    small_shape,
    write_trace,
)
from traces.format.checks import check, problems
from traces.format.reader import Trace
from traces.format.schema import KINDS, SCORES, RequestInfo, TraceError, TraceMeta
from traces.format.writer import TraceWriter

# Whatever has a place in UTF-8: NUL, quotes, line ends, right-to-left marks, but no half of a surrogate pair.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


@st.composite
def metas(draw: Any, widest: int = 1000) -> TraceMeta:
    layers = draw(st.integers(1, 4))
    experts = draw(st.sampled_from([count for count in (1, 2, 7, 256, 257, 1000) if count <= widest]))
    shape = small_shape(
        layers=layers,
        experts=experts,
        top_k=draw(st.integers(1, min(4, experts))),
        hidden=draw(st.integers(1, 9)),
        vocab=draw(st.sampled_from([1, 50, 5000])),
        weight_bytes=draw(st.sampled_from([2, 2.0, 0.53125])),
        expert_bytes_by_layer=draw(maybe(st.tuples(*[st.integers(1, 10**10)] * layers))),
    )
    distances = st.sets(st.integers(1, layers - 1)) if layers > 1 else st.just(set())
    return TraceMeta(
        kind=draw(st.sampled_from(KINDS)),
        model=draw(TEXT),
        shape=shape,
        revision=draw(maybe(TEXT)),
        config_sha256=draw(maybe(TEXT)),
        dtype=draw(maybe(TEXT)),
        score=draw(st.sampled_from(SCORES)),
        gate_complete=draw(st.booleans()),
        all_executed=draw(st.booleans()),
        residency=draw(st.booleans()),
        prefill=draw(st.booleans()),
        lookahead=tuple(sorted(draw(distances))),
        embedding=draw(st.booleans()),
        prompt_text=draw(st.booleans()),
        seed=draw(maybe(st.integers())),
        prompts=draw(maybe(TEXT)),
        generation=draw(st.dictionaries(TEXT, JSON, max_size=3)),
        versions=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
        license=draw(maybe(TEXT)),
        notes=draw(maybe(TEXT)),
    )


@st.composite
def requests(draw: Any, meta: TraceMeta, number: int) -> Pair:
    """A legal request with nothing in it that a format may lose: extremes, both zeros, sums that are a little off."""
    prompt, output, seed = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(0, 99))
    _, recorded = random_request(number, meta, seed=seed, prompt=prompt, output=output)
    info = RequestInfo(
        request=number,
        source=draw(TEXT),
        split=draw(maybe(TEXT)),
        arrival_s=draw(maybe(st.floats(0, allow_infinity=False))),
        prompt_tokens=draw(maybe(st.just(prompt) if meta.prefill else st.integers(1, 2**31 - 1))),
        output_tokens=output,
        prompt_sha256=draw(maybe(TEXT)),
        prompt=draw(maybe(TEXT)) if meta.prompt_text else None,
    )
    rng = np.random.default_rng(seed)
    kind = draw(st.sampled_from(["random", "one hot", "off by 0.4 %"]))
    return info, replace(
        recorded,
        source=info.source,
        position=_positions(rng, len(recorded.position)),
        gate=_gate(recorded.gate, meta, kind),
        lookahead={distance: _gate(gate, meta, kind, distance) for distance, gate in recorded.lookahead.items()},
    )


def _positions(rng: np.random.Generator, rows: int) -> Any:
    """Any that grow; the last one is the largest there is."""
    gaps = rng.integers(1, 1000, rows)
    return (np.iinfo(np.int32).max - gaps[::-1].cumsum()[::-1] + gaps[-1]).astype(np.int32)


def _gate(gate: Any, meta: TraceMeta, kind: str, distance: int = 0) -> Any:
    gate = gate.copy()
    known = gate[:, : meta.shape.layers - distance]
    if kind == "off by 0.4 %":
        known *= np.float16(0.997)
    elif kind == "one hot" and meta.gate_complete:
        known[:] = -0.0
        known[..., -1] = 1
    return gate


@st.composite
def traces(draw: Any, widest: int = 1000) -> tuple[TraceMeta, list[Pair]]:
    meta = draw(metas(widest))
    numbers = draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5, unique=True))
    return meta, [draw(requests(meta, number)) for number in numbers]


def bits(values: Any) -> Any:
    """So that −0.0 is not 0.0."""
    return values.view(np.uint16) if values.dtype == np.float16 else values


def assert_same_bits(found: RecordedRequest, expected: RecordedRequest) -> None:
    assert_same(found, expected)
    np.testing.assert_array_equal(bits(found.gate), bits(expected.gate))
    for distance, gate in expected.lookahead.items():
        np.testing.assert_array_equal(bits(found.lookahead[distance]), bits(gate))


@pytest.mark.parametrize("examples", slow_but([8, 40], 8))
def test_what_is_written_is_read_and_no_partition_shows(
    tmp_path_factory: pytest.TempPathFactory, examples: int
) -> None:
    @settings(max_examples=examples)
    @given(data=st.data(), given_trace=traces())
    def holds(data: st.DataObject, given_trace: tuple[TraceMeta, list[Pair]]) -> None:
        meta, pairs = given_trace
        folder = tmp_path_factory.mktemp("t")
        trace = Trace.open(write_trace(folder / "whole.trace", meta, [pairs]))
        assert check(trace.path) == []
        assert replace(trace.meta, files={}) == meta
        expected = sorted(pairs, key=lambda pair: pair[0].request)
        assert list(trace.infos.values()) == [info for info, _ in expected]
        for found, (info, recorded) in zip(trace.iter(), expected, strict=True):
            assert_same_bits(found, recorded)
            assert trace.rows_of(info.request) == len(recorded.iteration)

        shuffled = data.draw(st.permutations(pairs), "order")
        part_of = [data.draw(st.integers(0, 3), "part") for _ in pairs]
        for part in data.draw(st.permutations(sorted(set(part_of))), "order of parts"):
            mine = [pair for pair, number in zip(shuffled, part_of, strict=True) if number == part]
            with TraceWriter(folder / "parts.trace", meta, plan=PLAN) as writer:  # a session for each part
                writer.write_part(part, [info for info, _ in mine], [recorded for _, recorded in mine])
        with TraceWriter(folder / "parts.trace", meta, plan=PLAN) as writer:
            writer.finish()
        assert content(folder / "parts.trace") == content(trace.path)
        shutil.rmtree(folder)

    holds()


# Every change of the files is reported, or it changes nothing that is read


def values(path: Path) -> list[Any]:
    """All that a reader can read, in a form that can be compared: −0.0 is not 0.0, and a row is all of its columns."""
    trace = Trace.open(path)
    found: list[Any] = [trace.meta, *trace.infos.values()]
    for one in trace.iter():
        arrays = [one.iteration, one.position, one.token, one.gate, one.experts, *one.lookahead.values()]
        arrays += [each for each in (one.embedding, one.residency) if each is not None]
        found.append((one.request, one.source, [(array.dtype.str, array.shape, array.tobytes()) for array in arrays]))
    return found


def written(folder: Path, meta: TraceMeta, pairs: list[Pair]) -> tuple[Path, dict[str, bytes], list[Any]]:
    """A trace, the bytes of its files, and all that a reader can read."""
    path = write_trace(folder / "a.trace", meta, [pairs])
    return path, content(path), values(path)


def assert_reported_or_harmless(path: Path, before: list[Any]) -> None:
    reported = check(path)
    assert all("\n" not in line for line in reported)
    if not reported:
        assert values(path) == before


@pytest.mark.parametrize("examples", slow_but([5, 20], 5))
def test_a_byte_that_changes_in_any_file_is_reported_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, examples: int
) -> None:
    @settings(max_examples=examples)
    @given(data=st.data(), given_trace=traces(widest=7))
    def holds(data: st.DataObject, given_trace: tuple[TraceMeta, list[Pair]]) -> None:
        path, whole, before = written(tmp_path_factory.mktemp("t"), *given_trace)
        for _ in range(8):
            name = data.draw(st.sampled_from([*whole, "meta.json"]), "file")
            at = data.draw(st.integers(0, len(whole[name]) - 1), "offset")
            changed = bytearray(whole[name])
            changed[at] ^= data.draw(st.integers(1, 255), "changed bits")
            (path / name).write_bytes(changed)
            assert_reported_or_harmless(path, before)
            (path / name).write_bytes(whole[name])
        shutil.rmtree(path.parent)

    holds()


@pytest.mark.parametrize("examples", slow_but([4, 20], 4))
def test_files_cut_lengthened_removed_or_added_are_reported_or_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, examples: int
) -> None:
    @settings(max_examples=examples)
    @given(data=st.data(), given_trace=traces(widest=7))
    def holds(data: st.DataObject, given_trace: tuple[TraceMeta, list[Pair]]) -> None:
        path, whole, before = written(tmp_path_factory.mktemp("t"), *given_trace)
        for name, data_of in whole.items():
            more = data.draw(st.binary(min_size=1, max_size=9), "appended")
            for changed in (data_of[: data.draw(st.integers(0, len(data_of) - 1), "kept")], data_of + more):
                (path / name).write_bytes(changed)
                assert_reported_or_harmless(path, before)
                if name != "meta.json":  # its last byte ends a line
                    assert check(path)
            (path / name).unlink()
            assert check(path)
            (path / name).write_bytes(data_of)
        added = path / data.draw(
            st.sampled_from(["more.parquet", "embeddings.parquet", "times.json", "notes"]), "added"
        )
        if not added.exists():
            added.write_bytes(more)
            assert_reported_or_harmless(path, before)
            assert (added.suffix == ".parquet") == bool(check(path))
        shutil.rmtree(path.parent)

    holds()


@settings(max_examples=6)
@given(seeds=st.tuples(st.integers(0, 9), st.integers(10, 19)), embedding=st.booleans())
def test_files_swapped_between_two_traces_of_one_shape_are_reported(
    seeds: tuple[int, int], embedding: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("t")
    meta = small_meta(embedding=embedding)
    one, other = (
        write_trace(folder / f"{seed}.trace", meta, [[random_request(request, meta, seed) for request in range(3)]])
        for seed in seeds
    )
    mine, theirs, before = content(one), content(other), values(one)
    for name in mine:
        if theirs[name] != mine[name]:
            (one / name).write_bytes(theirs[name])
            assert check(one), name
            (one / name).write_bytes(mine[name])
    for name in theirs.keys() - {"meta.json"}:  # all but the description
        (one / name).write_bytes(theirs[name])
    assert theirs["tokens.parquet"] != mine["tokens.parquet"]
    assert check(one)
    for name, data in theirs.items():  # all of them: another trace, and a whole one
        (one / name).write_bytes(data)
    assert check(one) == []
    assert values(one) != before
    shutil.rmtree(folder)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    meta = small_meta(shape=small_shape(layers=2, experts=3, top_k=1, hidden=2, vocab=5), generation={"stop": ["\n"]})
    return write_trace(tmp_path / "a.trace", meta, [[random_request(n, meta, prompt=2, output=2) for n in range(2)]])


def every_byte(path: Path, change: Callable[[int], list[int]], step: int = 1) -> Iterator[tuple[str, int]]:
    """Change each byte of each file, or every so many, to each of what `change` makes of it, one at a time."""
    for name, whole in content(path).items():
        for at in range(0, len(whole), step):
            for value in change(whole[at]):
                (path / name).write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
                yield name, at
        (path / name).write_bytes(whole)


@pytest.mark.parametrize("step", slow_but([1, 17], 17))
def test_each_single_byte_of_a_trace_is_guarded(tiny: Path, step: int) -> None:
    """Or, in less time, every so many bytes."""
    before, changes = values(tiny), 0
    for name, at in every_byte(tiny, lambda byte: [byte ^ 1 << byte % 8], step):
        changes += 1
        if next(problems(tiny), None) is None:
            assert name == "meta.json", at  # all of a Parquet file is hashed
            assert values(tiny) == before, at
    assert changes == sum(-(-len(file) // step) for file in content(tiny).values())


@pytest.mark.long
def test_each_single_byte_of_a_trace_is_guarded_even_from_readers_that_check_no_hash(tiny: Path) -> None:
    """`Trace` does not hash the large files: it must notice by itself, or read what was written."""
    before, refused, harmless = values(tiny), 0, 0
    for name, at in every_byte(tiny, lambda byte: [byte ^ 0x01, byte ^ 0x80]):
        assert check(tiny) or name == "meta.json", (name, at)
        try:
            assert values(tiny) == before, (name, at)
            harmless += 1
        except TraceError:
            refused += 1
    assert refused > 5 * harmless > 0
