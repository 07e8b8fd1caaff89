"""Headers of safetensors and GGUF: what their own writers write is read, and no bytes do worse than a typed error."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qformat.errors import InvalidFileError, LimitError, QFormatError, SourceError, UnsupportedError
from qformat.report import checkpoint, gguf_header, safetensors_header
from qformat.report.overview import Overview


class Bytes:
    """A source in memory that counts how it is read."""

    def __init__(self, data: bytes, size: int | None = None) -> None:
        self.name, self.data, self.size, self.reads = "memory", data, len(data) if size is None else size, 0

    def read(self, start: int, stop: int) -> bytes:
        self.reads += 1
        assert 0 <= start <= stop <= self.size
        return self.data[start:stop].ljust(stop - start, b"\0")

    def close(self) -> None:
        pass


def safetensors_file(tensors: dict[str, np.ndarray[Any, Any]], metadata: dict[str, str] | None = None) -> bytes:
    from safetensors.numpy import save

    return save(tensors, metadata)


def header_file(entries: dict[str, Any] | str, data: int) -> bytes:
    text = entries if isinstance(entries, str) else json.dumps(entries)
    return struct.pack("<Q", len(text.encode())) + text.encode() + bytes(data)


arrays = st.dictionaries(
    st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(["float32", "float16", "int8", "uint64", "bool"]),
              st.lists(st.integers(0, 5), max_size=3)).map(lambda made: np.zeros(made[1], made[0])),
    max_size=6,
)  # fmt: skip


@given(arrays)
@example({"data_offsets": np.zeros(1, "float32"), "a": np.zeros(2, "int8")})
def test_safetensors_as_written_by_its_own_library(tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    metadata = {"format": "pt", "data_offsets": "data_offsets"}
    source = Bytes(safetensors_file(tensors, metadata))
    view = safetensors_header.overview(source)
    assert {row.name: (row.shape, row.stored.dtype, row.nbytes) for row in view.rows} == {
        name: (array.shape, array.dtype.name, array.nbytes) for name, array in tensors.items()
    }
    assert view.metadata == metadata
    assert source.reads == 1


def test_a_long_header_takes_two_reads() -> None:
    tensors = {f"model.layers.{n}.weight": np.zeros(1, np.float32) for n in range(2000)}
    source = Bytes(safetensors_file(tensors))
    assert len(safetensors_header.overview(source).rows) == 2000
    assert source.reads == 2


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "too short"),
        (b"1234567", "too short"),
        (struct.pack("<Q", 1 << 63), "too long"),
        (struct.pack("<Q", 100), "does not fit"),
        (header_file("[]", 0), "not a safetensors header"),
        (header_file("{", 0), "not a safetensors header"),
        (header_file("{} {}", 0), "not a safetensors header"),
        (header_file({"a": {}}, 0), "not a tensor entry"),
        (header_file({"a": {**ENTRY, "x": 1}}, 16), "not a tensor entry"),
        (header_file({"a": {**ENTRY, "dtype": "F7"}}, 16), "unknown dtype"),
        (header_file({"a": {**ENTRY, "shape": [-2, -2]}}, 16), "out of range"),
        (header_file({"a": {**ENTRY, "shape": [True, 4]}}, 16), "not a tensor entry"),
        (header_file({"a": {**ENTRY, "shape": [1 << 62, 1 << 62]}}, 16), "out of range"),
        (header_file({"a": {**ENTRY, "shape": [2, 3]}}, 16), "disagree"),
        (header_file({"a": {**ENTRY, "data_offsets": [16, 0]}}, 16), "disagree"),
        (header_file({"a": ENTRY, "b": ENTRY}, 16), "overlaps"),
        (header_file({"a": {**ENTRY, "data_offsets": [4, 20]}}, 20), "hole"),
        (header_file({"a": ENTRY}, 15), "do not cover"),
        (header_file({"a": ENTRY}, 17), "do not cover"),
        (header_file(f'{{"a":{json.dumps(ENTRY)},"a":{json.dumps(ENTRY)}}}', 16), "twice"),
        (header_file({"__metadata__": {"a": 1}}, 0), "not a safetensors header"),
        (header_file({"a": {**ENTRY, "shape": [1] * 100}}, 16), "too many dimensions"),
    ],
)
def test_malformed_safetensors(data: bytes, match: str) -> None:
    with pytest.raises(InvalidFileError, match=match):
        safetensors_header.overview(Bytes(data))


def test_a_bomb_of_small_entries_stays_bytes() -> None:
    text = '{"__metadata__":{},' + ",".join(f'"{n}":{{}}' for n in range(600_000)) + "}"
    with pytest.raises(LimitError, match="too many tensors"):
        safetensors_header.overview(Bytes(header_file(text, 0)))


# -- GGUF --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("a\x1b[31mname")
    writer.add_array("tokenizer.ggml.tokens", [f"token {n}" for n in range(1000)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 1000)
    writer.add_array("short", [1, 2, 3])
    writer.add_float32("rope", 10000.0)
    writer.add_tensor("output.weight", np.zeros((4, 256), np.float32))
    quantized = gguf.quants.quantize(np.ones((8, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.attn_q.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_gguf_as_written_by_its_own_library(gguf_file: bytes) -> None:
    source = Bytes(gguf_file)
    view = gguf_header.overview(source)
    assert [(row.name, row.shape, row.stored_as, row.nbytes) for row in view.rows] == [
        ("output.weight", (4, 256), "float32", 4096),
        ("blk.0.attn_q.weight", (8, 64), "Q8_0", 8 * 2 * 34),
    ]
    assert view.rows[1].bits_per_weight == 8.5
    assert view.metadata["general.architecture"] == "llama"
    assert view.metadata["tokenizer.ggml.tokens"] == {"array": "string", "count": 1000}
    assert view.metadata["tokenizer.ggml.scores"] == {"array": "float32", "count": 1000}
    assert view.metadata["short"] == [1, 2, 3]
    assert source.reads == 1


def test_the_table_of_types_is_ggufs() -> None:
    gguf = pytest.importorskip("gguf")
    for kind, (elements, nbytes) in gguf.GGML_QUANT_SIZES.items():
        if kind.name == "Q8_1":  # the package says 40; the C struct has 2 + 2 + 32 bytes
            continue
        ours = gguf_header.TYPES[int(kind)]
        assert (ours.elements, ours.nbytes) == (elements, nbytes), kind


def test_gguf_cut_short_anywhere_is_a_typed_error(gguf_file: bytes) -> None:
    end = len(gguf_file)
    for length in [*range(200), *range(200, end - 1, 997), end - 40 - 8 * 2 * 34]:
        with pytest.raises(QFormatError):
            gguf_header.overview(Bytes(gguf_file[:length]))


@given(st.data())
def test_flipped_bytes_are_read_or_refused(gguf_file: bytes, data: st.DataObject) -> None:
    tensors = {"a.weight": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.int8)}
    for good, read in ((gguf_file, gguf_header.overview), (safetensors_file(tensors), safetensors_header.overview)):
        made = bytearray(good)
        for _ in range(data.draw(st.integers(1, 4))):
            made[data.draw(st.integers(0, min(len(made), 600) - 1))] = data.draw(st.integers(0, 255))
        try:
            view = read(Bytes(bytes(made)))
        except QFormatError:
            continue
        assert isinstance(view, Overview)
        assert sum(row.nbytes for row in view.rows) <= len(made)


def gguf_bytes(*, tensors: int = 0, keys: bytes = b"", n_keys: int = 0, infos: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<Iqq", version, tensors, n_keys) + keys + infos


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def info(name: str, dims: list[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}qIQ", len(dims), *dims, kind, offset)


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (b"GGUX" + bytes(40), InvalidFileError, "not a GGUF file"),
        (gguf_bytes(version=1), UnsupportedError, "this version"),
        (gguf_bytes(version=3 << 24), UnsupportedError, "big-endian"),
        (gguf_bytes(tensors=-1), LimitError, "number of tensors"),
        (gguf_bytes(tensors=1 << 40), LimitError, "number of tensors"),
        (gguf_bytes(n_keys=1 << 62), LimitError, "number of keys"),
        (gguf_bytes(n_keys=1, keys=struct.pack("<Q", 1 << 63)), LimitError, "string too long"),
        (gguf_bytes(n_keys=1, keys=text("k") + struct.pack("<I", 99)), InvalidFileError, "unknown type of value"),
        (gguf_bytes(n_keys=1, keys=text("k") + struct.pack("<IIQ", 9, 9, 1)), InvalidFileError, "type of array"),
        (gguf_bytes(n_keys=1, keys=text("k") + struct.pack("<IIQ", 9, 8, 1 << 62)), InvalidFileError, "does not fit"),
        (gguf_bytes(n_keys=1, keys=text("k") + struct.pack("<IIQ", 9, 4, 1 << 62)), InvalidFileError, "ends inside"),
        (gguf_bytes(n_keys=2, keys=(text("k") + struct.pack("<IB", 0, 1)) * 2), InvalidFileError, "key occurs twice"),
        (gguf_bytes(tensors=1, infos=info("t", [32], 77, 0)), UnsupportedError, "unknown ggml type"),
        (gguf_bytes(tensors=1, infos=info("t", [31], 2, 0)), InvalidFileError, "whole blocks"),
        (gguf_bytes(tensors=1, infos=info("t", [1 << 62, 1 << 62], 0, 0)), InvalidFileError, "out of range"),
        (gguf_bytes(tensors=1, infos=info("t", [1024], 0, 0)), InvalidFileError, "beyond the end"),
        (gguf_bytes(tensors=1, infos=info("t", [0], 0, 64)), InvalidFileError, "tensor before it ends"),
        (gguf_bytes(tensors=2, infos=info("t", [0], 0, 0) * 2), InvalidFileError, "name occurs twice"),
    ],
)
def test_malformed_gguf(data: bytes, error: type[QFormatError], match: str) -> None:
    with pytest.raises(error, match=match):
        gguf_header.overview(Bytes(data))


# -- a directory -------------------------------------------------------------------------------------------------------


def test_a_sharded_directory(tmp_path: Path) -> None:
    for index in (1, 2):
        name = f"model-0000{index}-of-00002.safetensors"
        (tmp_path / name).write_bytes(safetensors_file({f"t{index}": np.zeros((2, 2), np.float16)}))
    weight_map = {f"t{index}": f"model-0000{index}-of-00002.safetensors" for index in (1, 2)}
    index_file = tmp_path / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"weight_map": weight_map}))
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "quantization_config": {"quant_method": "gptq"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    view = checkpoint.overview(str(tmp_path))
    assert [row.name for row in view.rows] == ["t1", "t2"]
    assert view.metadata["general.architecture"] == "llama"
    assert view.metadata["config.quantization"] == "gptq"
    assert len(view.files) == 2

    for bad in ("../x.safetensors", "/etc/passwd", "x.bin", "a\\b.safetensors", "sub/x.safetensors"):
        index_file.write_text(json.dumps({"weight_map": {"t": bad}}))
        with pytest.raises(SourceError, match="not the name of a file"):
            checkpoint.overview(str(tmp_path))
    index_file.write_text(json.dumps({"weight_map": {"t": "model-00003-of-00003.safetensors"}}))
    with pytest.raises(SourceError, match="missing"):
        checkpoint.overview(str(tmp_path))
    index_file.write_text("[]")
    with pytest.raises(SourceError, match="not a JSON object"):
        checkpoint.overview(str(tmp_path))


def test_a_directory_without_weights(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no \.safetensors"):
        checkpoint.overview(str(tmp_path))
