"""Round trips, and that nothing but what was written ever comes back."""

from __future__ import annotations

import io
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qformat import container
from qformat.container import Writer, records
from qformat.container.records import Limits
from qformat.errors import LimitError, OutputError, QFormatError, RecipeError
from tests.container.files import DENSE, put, sample

SAMPLE = sample()

names = st.text(st.sampled_from("abz09._- "), min_size=1, max_size=12).filter(
    lambda n: n == n.strip() and n not in (".", "..")
)


@st.composite
def contents(draw: st.DrawFn) -> list[tuple[str, bytes, str | None]]:
    """(name, bytes, compression) of some tensors."""
    found = draw(st.lists(names, unique=True, max_size=6))
    made = []
    for name in found:
        data = draw(st.one_of(st.binary(max_size=300), st.sampled_from([bytes(70000), b"ab" * 40000])))
        made.append((name, data, draw(st.sampled_from([None, "zstd", "split"]))))
    return made


def write(file: Any, tensors: list[tuple[str, bytes, str | None]], pieces: int = 1) -> str:
    writer = Writer(file)
    for name, data, compression in tensors:
        step = max(len(data) // pieces, 1)
        parts = [data[i : i + step] for i in range(0, len(data), step)]
        writer.tensor(
            name,
            scheme=DENSE,
            dtype="uint8",
            shape=(len(data),),
            length=len(data),
            data=parts,
            compression=compression,
            itemsize=2,
        )
    return writer.finish({"k": 1})


@given(tensors=contents(), pieces=st.integers(1, 5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, tensors: list[Any], pieces: int) -> None:
    path = tmp_path_factory.mktemp("f") / "x.qf"
    with path.open("wb") as file:
        digest = write(file, tensors, pieces)
    with container.open(path) as opened:
        assert opened.names() == [name for name, _, _ in tensors]
        assert opened.digest == digest
        assert opened.size == path.stat().st_size
        assert opened.verify() == []
        for name, data, _ in tensors:
            assert opened.read(name).tobytes() == data
            middle = len(data) // 3
            assert opened.read(name, middle, 2 * middle).tobytes() == data[middle : 2 * middle]


def test_chunks_are_cut_at_4_mib_and_only_touched_ones_are_hashed(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, 2 * records.CHUNK + 17, dtype=np.uint8)
    with container.create(tmp_path / "x.qf") as writer:
        entry = writer.tensor(
            "w", scheme=DENSE, dtype="uint8", shape=data.shape, length=data.size, data=[data[:5], data[5:]]
        )
        writer.finish({})
    assert [row[0] for row in entry.chunks] == [records.CHUNK, records.CHUNK, 17]
    with container.open(tmp_path / "x.qf") as opened:
        part = opened.parts[0]
        assert np.array_equal(
            opened.read("w", records.CHUNK + 3, records.CHUNK + 9), data[records.CHUNK + 3 : records.CHUNK + 9]
        )
        assert part.touched.tolist() == [False, True, False]
        assert np.array_equal(opened.read("w", records.CHUNK - 2), data[records.CHUNK - 2 :])
        assert part.touched.tolist() == [True, True, True]


def test_the_file_does_not_depend_on_how_data_is_cut(tmp_path: Path) -> None:
    tensors: list[Any] = [("a", bytes(range(256)) * 9, None), ("b", bytes(90000), "zstd")]
    made = set()
    for pieces in (1, 2, 7):
        file = io.BytesIO()
        write(file, tensors, pieces)
        made.add(file.getvalue())
    assert len(made) == 1


def test_a_pipe_will_do() -> None:
    reading, writing = os.pipe()
    found = bytearray()

    def drain() -> None:
        with os.fdopen(reading, "rb") as file:
            found.extend(file.read())

    thread = threading.Thread(target=drain)
    thread.start()
    with os.fdopen(writing, "wb") as file:
        write(file, [("a", b"abc", None), ("b", bytes(100), None)])
    thread.join()
    plain = io.BytesIO()
    write(plain, [("a", b"abc", None), ("b", bytes(100), None)])
    assert bytes(found) == plain.getvalue()


@given(tensors=contents(), keep=st.integers(0, 6))
def test_a_writer_goes_on_from_entries(tensors: list[Any], keep: int) -> None:
    whole = io.BytesIO()
    write(whole, tensors)
    first = io.BytesIO()
    writer = Writer(first)
    entries = [
        writer.tensor(
            n, scheme=DENSE, dtype="uint8", shape=(len(d),), length=len(d), data=[d], compression=c, itemsize=2
        )
        for n, d, c in tensors
    ][:keep]
    import msgspec

    entries = msgspec.json.decode(msgspec.json.encode(entries), type=list[container.Entry])
    second = io.BytesIO(first.getvalue()[: entries[-1].end] if entries else b"")
    second.seek(0, os.SEEK_END)
    writer = Writer(second, entries=entries)
    for name, data, compression in tensors[len(entries) :]:
        writer.tensor(
            name,
            scheme=DENSE,
            dtype="uint8",
            shape=(len(data),),
            length=len(data),
            data=[data],
            compression=compression,
            itemsize=2,
        )
    writer.finish({"k": 1})
    assert second.getvalue() == whole.getvalue()


def test_aliases_and_attachments(tmp_path: Path) -> None:
    with container.open(put(tmp_path, SAMPLE)) as opened:
        assert opened.record("tied").target == "b.weight"
        assert opened.read("tied").tobytes() == bytes(range(100))
        assert dict(opened.attachments) == {"config.json": b"{}"}
        assert "config.json" not in opened
        assert opened.record("b.weight").error == 0.5
        assert opened.record("a.weight").error is None
        again = pickle.loads(pickle.dumps(opened))
        assert again.digest == opened.digest
        again.close()


def test_reading_after_close_is_a_plain_error(tmp_path: Path) -> None:
    opened = container.open(put(tmp_path, SAMPLE))
    view = opened.read("b.weight")
    opened.close()
    assert view.tobytes() == bytes(range(100))
    with pytest.raises(ValueError, match="closed"):
        opened.read("b.weight")
    with pytest.raises(KeyError):
        opened.read("nothing")


def survives(path: Path) -> bool:
    """Whether a file opens and verifies; anything but a QFormatError is a bug."""
    try:
        with container.open(path) as opened:
            return not opened.verify()
    except QFormatError:
        return False


@given(at=st.integers(0, len(SAMPLE) - 1), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    raw = bytearray(SAMPLE)
    raw[at] ^= 1 << bit
    assert not survives(put(tmp_path_factory.mktemp("f"), bytes(raw)))


@given(end=st.integers(0, len(SAMPLE) - 1))
def test_every_truncation_is_found(tmp_path_factory: pytest.TempPathFactory, end: int) -> None:
    assert not survives(put(tmp_path_factory.mktemp("f"), SAMPLE[:end]))


@given(first=st.integers(0, len(SAMPLE)), second=st.integers(0, len(SAMPLE)), extra=st.binary(max_size=70))
def test_every_splice_is_found(tmp_path_factory: pytest.TempPathFactory, first: int, second: int, extra: bytes) -> None:
    raw = SAMPLE[:first] + extra + SAMPLE[second:]
    if raw != SAMPLE:
        assert not survives(put(tmp_path_factory.mktemp("f"), raw))


@pytest.mark.slow
def test_every_bit_of_every_byte(tmp_path: Path) -> None:
    for at in range(len(SAMPLE)):
        for bit in range(8):
            raw = bytearray(SAMPLE)
            raw[at] ^= 1 << bit
            assert not survives(put(tmp_path, bytes(raw))), (at, bit)


@pytest.mark.slow
def test_every_length(tmp_path: Path) -> None:
    for end in range(len(SAMPLE)):
        assert not survives(put(tmp_path, SAMPLE[:end])), end


def test_calls_out_of_order_are_refused() -> None:
    writer = Writer(io.BytesIO())
    writer.finish({})
    with pytest.raises(OutputError, match="writer that is finished"):
        writer.finish({})
    with pytest.raises(OutputError, match="writer that is finished"):
        writer.attachment("a", b"")
    broken = Writer(io.BytesIO())
    with pytest.raises(OutputError, match=r"another length \(expected 5, found 3\)"):
        broken.tensor("w", scheme=DENSE, dtype="uint8", shape=(5,), length=5, data=[b"abc"])
    with pytest.raises(OutputError, match="writer that is broken"):
        broken.finish({})


@pytest.mark.parametrize("name", ["", "é", "a\\b", "/a", "a/../b", "a//b", " a", "a ", ".", "..", "a\nb", "x" * 513])
def test_names_that_a_file_cannot_hold(name: str) -> None:
    with pytest.raises(RecipeError, match="not a name"):
        Writer(io.BytesIO()).attachment(name, b"")


def test_a_name_twice_is_refused() -> None:
    writer = Writer(io.BytesIO())
    writer.tensor("w", scheme=DENSE, dtype="uint8", shape=(0,), length=0, data=[])
    with pytest.raises(RecipeError, match="the name is taken"):
        writer.tensor("w", scheme=DENSE, dtype="uint8", shape=(0,), length=0, data=[])
    writer.attachment("w", b"")  # attachments have names of their own
    with pytest.raises(RecipeError, match="the name is taken"):
        writer.attachment("w", b"")


def test_split_compression_saves_a_third_of_bfloat16(tmp_path: Path) -> None:
    weights = (np.random.default_rng(0).standard_normal(1 << 20) * 0.02).astype(np.float32)
    data = (weights.view(np.uint32) >> 16).astype(np.uint16)
    with container.create(tmp_path / "x.qf") as writer:
        entry = writer.tensor(
            "w",
            scheme=DENSE,
            dtype="bfloat16",
            shape=data.shape,
            length=data.nbytes,
            data=[data],
            compression="split",
            itemsize=2,
        )
        writer.finish({})
    assert entry.stored < 0.672 * entry.length  # ZipNN (arXiv 2411.05239) reports about a third
    with container.open(tmp_path / "x.qf") as opened:
        assert np.array_equal(opened.read("w").view(np.uint16), data)


@pytest.mark.parametrize(
    ("limit", "held"), [("records", 6), ("json_depth", 4), ("dimension", 5000), ("elements", 5000.0), ("extent", 5000)]
)
def test_what_a_reader_takes_is_an_argument(tmp_path: Path, limit: str, held: float) -> None:
    path = tmp_path / "x.qf"
    path.write_bytes(SAMPLE)
    container.open(path, limits=Limits(**{limit: held})).close()  # type: ignore[arg-type]
    with pytest.raises(LimitError):
        container.open(path, limits=Limits(**{limit: held - 1}))  # type: ignore[arg-type]
