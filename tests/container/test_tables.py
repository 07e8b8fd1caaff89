"""Tables of an index: the native pass agrees with the definition, and what is read again is what was checked."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat import container
from qformat.container import columns, extents, forward, opening
from qformat.container.records import CHUNK, LIMITS, RAW, RECORD, SPLIT4
from qformat.errors import ChangedError, QFormatError
from tests.container.files import DENSE, Parts, put, sample
from tests.hostile import cases

WORDS = RECORD.itemsize // 8
NUMBERS = st.sampled_from([0, 1, 2, 3, 5, 8, 9, CHUNK, 1 << 31, 1 << 40, (1 << 40) + 1, 1 << 63, (1 << 64) - 1])


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every index is read as a large one is: in blocks, here of two records, hashed beside."""
    monkeypatch.setattr(opening, "_HELD", 0)
    monkeypatch.setattr(forward, "BLOCK", 2 * RECORD.itemsize)
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before  # no thread that hashes is left over


def gathered(count: int) -> columns.Records:
    return columns.Records(count, LIMITS)


@given(
    changes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, WORDS - 1), NUMBERS), min_size=1, max_size=3),
    added=st.booleans(),
)
def test_the_native_pass_finds_what_the_definition_finds(changes: list[tuple[int, int, int]], added: bool) -> None:
    records = Parts(sample()).records.copy()
    words = records.view(np.uint64).reshape(-1, WORDS)
    for row, word, value in changes:
        words[row, word] = (int(words[row, word]) * added + value) % (1 << 64)
    table = columns._columns(records)
    try:
        columns._check_fields(0, table, len(records), LIMITS)
        columns._check_names(0, table, 0, attached=False)
        good = len(set(records["order"].tolist())) == len(records)
    except QFormatError:
        good = False
    try:
        gathered(len(records)).check(0, records)
        found = True
    except QFormatError:
        found = False
    assert found == good


@given(
    changes=st.lists(
        st.tuples(st.sampled_from(["extents", "chunks", "end"]), st.integers(0, 99), NUMBERS, st.booleans()), max_size=2
    )
)
def test_extents_that_do_not_follow_are_found_by_both(changes: list[tuple[str, int, int, bool]]) -> None:
    parts = Parts(sample())
    records, chunks, end = gathered(len(parts.records)), parts.chunks.copy(), int(parts.head["extents_end"][0])
    records.check(0, parts.records)
    before = (records.extents.copy(), chunks.copy(), end)
    flat = records.extents[[0, 2, 3]]  # lengths are bounded when records are checked
    for where, at, value, added in changes:
        if where == "end":
            end = (end * added + value) % (1 << 62)
        else:
            words = flat.reshape(-1) if where == "extents" else chunks.view(np.uint32)
            words[at % words.size] = (int(words[at % words.size]) * added + value) % (1 << 8 * words.itemsize)
    records.extents[[0, 2, 3]] = flat
    same = np.array_equal(before[0][:, records.own], records.extents[:, records.own]) and end == before[2]
    same = same and np.array_equal(before[1]["stored"], chunks["stored"]) and int(chunks["codec"].max()) <= SPLIT4
    same = same and np.array_equal(before[1]["codec"] == RAW, chunks["codec"] == RAW)  # which codec is for the hash
    for check in (extents.check, extents._find):
        if same:
            check(records, chunks, end)
        else:
            with pytest.raises(QFormatError, match=r"^(?!.*do not fit together)"):
                check(records, chunks, end)


@pytest.mark.usefixtures("streamed")
def test_a_file_is_the_same_however_its_index_is_read(tmp_path: Path) -> None:
    path = put(tmp_path, sample())
    with container.open(path) as opened:
        assert opened.names() == ["b.weight", "a.weight", "empty", "zeros", "tied"]
        assert opened.read("tied").tobytes() == bytes(range(100))
        assert opened.attachments["config.json"] == b"{}"
        assert opened.verify() == []
        streamed, digest = [opened.record(name) for name in opened], opened.content_digest
    opening._HELD = 1 << 20
    with container.open(path) as opened:
        assert [opened.record(name) for name in opened] == streamed
        assert opened.content_digest == digest


@pytest.mark.usefixtures("streamed")
def test_hostile_files_are_refused_however_their_index_is_read(tmp_path: Path) -> None:
    refused = 0
    for name, raw, error, text in cases.every():
        if error in (None, "") or len(raw) > 1 << 20:
            continue
        try:
            with container.open(put(tmp_path, raw)) as opened:
                faults = opened.verify()
                assert faults or [n for n in opened if opened.read(n) is None], name
                found: QFormatError = faults[0]
        except QFormatError as raised:
            found = raised
        except (ValueError, AssertionError) as raised:
            raise AssertionError(name) from raised
        assert type(found).__name__ == error and text in str(found), name
        refused += 1
    assert refused > 100


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("whole", [False, True])
def test_records_that_change_after_they_were_checked_are_not_believed(tmp_path: Path, whole: bool) -> None:
    path = put(tmp_path, sample())
    parts = Parts(sample())
    before = path.stat()
    with container.open(path) as opened:
        at = parts.offset + 128 + int(np.flatnonzero(parts.records["length"] == 5000)[0]) * RECORD.itemsize
        with path.open("r+b") as stream:
            stream.seek(at + RECORD.fields["length"][1])  # type: ignore[index]
            stream.write(b"\x04")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nothing had happened
        with pytest.raises(ChangedError, match=r"x\.qf: byte \d+: the file changed while it was open"):
            opened.columns() if whole else opened.read("zeros")


@pytest.mark.parametrize("records", [3, 9000])
def test_a_damaged_index_is_refused_before_its_contents_are(tmp_path: Path, records: int) -> None:
    path = tmp_path / "x.qf"
    with container.create(path) as writer:
        for number in range(records):
            writer.tensor(f"w{number}", scheme=DENSE, dtype="uint8", shape=(1,), length=1, data=[b"x"])
        writer.finish({})
    raw = bytearray(path.read_bytes())
    parts = Parts(bytes(raw))
    for at in (parts.offset, parts.offset + 129, len(raw) - 200):
        raw[at] ^= 0x80
        path.write_bytes(raw)
        with pytest.raises(QFormatError, match="the index is damaged"):
            container.open(path)
        raw[at] ^= 0x80
