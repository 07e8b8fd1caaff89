"""Hostile files, one function a family: yields (case, bytes, expected error, text that its message must hold).

The number at the start of a case is its number in tests/cases.md. `None` as the error means that the file is valid and
must be accepted. Hashes are right wherever the fault is not the hash itself: most damage would otherwise end there.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from qformat.container.assemble import preamble, trailer
from qformat.container.records import BYTE_ORDER, MAGIC, NONE, TRAILER
from tests.container.files import Parts, sample, sealed

Case = tuple[str, bytes, str | None, str]

SAMPLE = sample()
INVALID, LIMIT, INTEGRITY, UNSUPPORTED = "InvalidFileError", "LimitError", "IntegrityError", "UnsupportedError"


def changed(change: Callable[[Parts], Any]) -> bytes:
    """The sample with one change, every hash right."""
    parts = Parts(SAMPLE)
    change(parts)
    return parts.bytes()


def with_json(text: bytes) -> bytes:
    def change(parts: Parts) -> None:
        parts.json = text

    return changed(change)


def with_document(change: Callable[[dict[str, Any]], Any]) -> bytes:
    return changed(lambda parts: parts.document(change))


def row(name: str, parts: Parts) -> int:
    """Number of the record called `name`."""
    for number, record in enumerate(parts.records):
        start = int(record["name_offset"])
        if parts.names[start : start + int(record["name_length"])] == name.encode():
            return number
    raise KeyError(name)


def with_field(name: str, field: str, value: Any) -> bytes:
    """One field of one record set to a value (or to what a function makes of the old one)."""

    def change(parts: Parts) -> None:
        number = row(name, parts)
        old = parts.records[field][number]
        parts.records[field][number] = value(old) if callable(value) else value

    return changed(change)


def with_tail(**fields: Any) -> bytes:
    """The sample with fields of its trailer set and the trailer's checksum right."""
    from qformat.container.chunks import checksum

    tail = np.frombuffer(SAMPLE[-TRAILER.itemsize :], TRAILER).copy()
    for field, value in fields.items():
        tail[field] = value
    tail["checksum"] = checksum(tail.tobytes()[:-8])
    return SAMPLE[: -TRAILER.itemsize] + tail.tobytes()


def preambles() -> Iterator[Case]:
    yield "001 empty", b"", INVALID, "cut short"
    for size in (1, 7, 8, 63):
        yield f"002 {size} bytes", SAMPLE[:size], INVALID, "cut short"
    yield "003 zeros", bytes(1 << 20), INVALID, "interrupted or pre-sized download"
    for bit in (0, 13, 63):
        raw = bytearray(SAMPLE)
        raw[bit // 8] ^= 1 << bit % 8
        yield f"004 magic bit {bit}", bytes(raw), INVALID, "not a .qf file"
    yield "005 text mode", SAMPLE.replace(b"\r\n", b"\n"), INVALID, "text-mode transfer"
    for kind, start, text in (
        ("lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
        ("html", b"<!DOCTYPE html><html><body>404</body></html>" * 9, "a web page"),
        ("gzip", b"\x1f\x8b\x08" + bytes(400), "gzip"),
        ("zip", b"PK\x03\x04" + bytes(400), "a zip archive"),
        ("pickle", b"\x80\x02}q\x00." + bytes(400), "a pickle"),
        ("gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(400), "a GGUF file"),
        ("safetensors", struct.pack("<Q", 2) + b"{}" + bytes(400), "a safetensors file"),
        ("npy", b"\x93NUMPY\x01\x00" + bytes(400), "a numpy array"),
    ):
        yield f"006 {kind}", start, INVALID, text
    for major in (0, 2, 65535):
        yield (
            f"007 major {major}",
            MAGIC + struct.pack("<II", BYTE_ORDER, major) + SAMPLE[16:],
            UNSUPPORTED,
            "another major version",
        )
    yield "008 reserved bytes", SAMPLE[:20] + b"\x01" + SAMPLE[21:], INVALID, "reserved bytes are not zero"
    yield "009 required feature", with_document(lambda d: d["required"].append("teleport")), UNSUPPORTED, "teleport"
    yield "009 optional feature", with_document(lambda d: d["optional"].append("teleport")), None, ""
    yield "011 byte order", MAGIC + struct.pack(">II", BYTE_ORDER, 1) + SAMPLE[16:], INVALID, "wrong byte order"
    yield "012 one byte more", SAMPLE + b"\x00", INVALID, "trailer"
    yield "012 one byte less", SAMPLE[:-1], INVALID, "trailer"
    for off in (-1, 1):
        yield f"012 says {off:+d}", with_tail(file_size=len(SAMPLE) + off), INVALID, "another length than it says"
    yield "013 no trailer", SAMPLE[: -TRAILER.itemsize], INVALID, "no trailer at the end"
    other = sample({"general.name": "another file of the same shape"})
    yield "013 trailer of another", SAMPLE[: -TRAILER.itemsize] + other[-TRAILER.itemsize :], INVALID, "length"
    yield "014 zip behind", SAMPLE + b"PK\x05\x06" + bytes(1 << 20), INVALID, "no trailer at the end"


def index_sizes() -> Iterator[Case]:
    yield "015 empty index", preamble() + trailer(64, 0, bytes(32)), INTEGRITY, "index is damaged"
    yield "015 empty index, right digest", preamble() + sealed(b"", 64), INVALID, "index too short"
    for length in (1 << 63, (1 << 64) - 1, (1 << 64) - 8):
        yield f"016 index length {length}", with_tail(index_length=length), INVALID, "does not lie before the trailer"
        yield f"016 index offset {length}", with_tail(index_offset=length), INVALID, "does not lie before the trailer"
    for less in (0, 63):
        yield (
            f"017 index length {less} below the file's",
            with_tail(index_length=len(SAMPLE) - less),
            INVALID,
            "does not lie before",
        )
    for field, count in (
        ("records", (1 << 20) + 1),
        ("records", 1 << 63),
        ("chunks", 1 << 62),
        ("names_length", 1 << 50),
        ("json_length", 1 << 40),
    ):

        def enlarge(parts: Parts, field: str = field, count: int = count) -> bytes:
            raw = bytearray(parts.bytes()[len(parts.body) : -TRAILER.itemsize])
            head = np.frombuffer(raw, parts.head.dtype, count=1)
            head[field] = count
            return bytes(parts.body) + sealed(bytes(raw), len(parts.body))

        yield f"020 {count} {field}", enlarge(Parts(SAMPLE)), LIMIT, f"index.{field}"
    for field in ("records", "chunks", "names_length", "json_length"):

        def shift(parts: Parts, field: str = field) -> bytes:
            raw = bytearray(parts.bytes()[len(parts.body) : -TRAILER.itemsize])
            head = np.frombuffer(raw, parts.head.dtype, count=1)
            head[field] += 100
            return bytes(parts.body) + sealed(bytes(raw), len(parts.body))

        yield f"059 100 {field} too many", shift(Parts(SAMPLE)), INVALID, "index"
    yield "019 spaces", with_json(b" " * (8 << 20)), INVALID, "not JSON"
    yield "021 brackets", with_json(b"{}," * (8 << 20)), INVALID, "not JSON"
    yield "021 open brackets", with_json(b"[" * (8 << 20)), LIMIT, "nests too deep"
    yield "022 one string", with_json(b'"' + b"a" * (33 << 20) + b'"'), LIMIT, "index.json_length"
    raw = bytearray(SAMPLE)
    raw[-TRAILER.itemsize - 70] ^= 1
    yield "025 index digest", bytes(raw), INTEGRITY, "index is damaged"
    raw = bytearray(SAMPLE)
    raw[-10] ^= 1
    yield "096 trailer", bytes(raw), INTEGRITY, "trailer is damaged"
    yield "099 digest zero", with_tail(index_digest=np.void(bytes(32))), INTEGRITY, "index is damaged"
    yield "099 digest ones", with_tail(index_digest=np.void(b"\xff" * 32)), INTEGRITY, "index is damaged"


def documents() -> Iterator[Case]:
    good = json.loads(Parts(SAMPLE).json)
    text = Parts(SAMPLE).json
    for name, raw in (("nothing", b""), ("words", b"hello"), ("null", b"null"), ("list", b"[]"), ("string", b'"x"')):
        yield f"026 {name}", with_json(raw), INVALID, ""
    for end in range(1, len(text), max(len(text) // 40, 1)):
        yield f"027 cut at {end}", with_json(text[:end]), INVALID, ""
    for depth in (17, 100_000):
        yield (
            f"028 depth {depth}",
            with_json(text[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"),
            LIMIT,
            "nests too deep",
        )
    yield "029 duplicate key", with_json(b'{"metadata":{},' + text[1:]), INVALID, "duplicate key"
    yield (
        "029 duplicate nested",
        with_json(text.replace(b'"general.name":', b'"general.name":1,"general.name":')),
        INVALID,
        "duplicate key",
    )
    yield (
        "029 duplicate escaped",
        with_json(text.replace(b'"metadata":{', b'"metadata":{"a":1,"\\u0061":2,')),
        INVALID,
        "duplicate key",
    )
    for number in ("NaN", "Infinity", "-Infinity", "1e400"):
        yield f"030 {number}", with_json(text.replace(b'"sample"', number.encode())), INVALID, ""
    for number in ("01", "+1", "0x10", "1_000", "--1"):
        yield f"031 {number}", with_json(text.replace(b'"sample"', number.encode())), INVALID, "not JSON"
    for number in (str(1 << 64), "9" * 5000):
        yield (
            f"032 {len(number)} digits",
            with_json(text.replace(b'"sample"', number.encode())),
            LIMIT,
            "integer too large",
        )
    for name, raw in (
        ("trailing comma", text[:-1] + b",}"),
        ("comment", b"/*x*/" + text),
        ("single quotes", text.replace(b'"sample"', b"'sample'")),
        ("bare key", text.replace(b'"metadata"', b"metadata")),
    ):
        yield f"033 {name}", with_json(raw), INVALID, "not JSON"
    for name, raw in (
        ("mark", b"\xef\xbb\xbf" + text),
        ("utf16", text.decode().encode("utf-16")),
        ("utf32", text.decode().encode("utf-32")),
    ):
        yield f"034 {name}", with_json(raw), INVALID, ""
    for name, raw in (
        ("overlong", b"\xc0\xaf"),
        ("surrogate", b"\xed\xa0\x80"),
        ("f5", b"\xf5\x80\x80\x80"),
        ("lone", b"\x80"),
        ("short", b"\xe2\x82"),
    ):
        yield f"035 {name}", with_json(text.replace(b"sample", raw)), INVALID, "UTF-8"
    for name, raw in (("lone", b"\\ud800"), ("reversed", b"\\udc00\\ud800")):
        yield f"036 {name}", with_json(text.replace(b"sample", raw)), INVALID, "surrogate"
    yield "037 raw control", with_json(text.replace(b"sample", b"\x01")), INVALID, "not JSON"
    yield "037 raw NUL", with_json(text.replace(b"sample", b"\x00")), INVALID, "UTF-8"
    for name, raw in (("text", text + b"x"), ("two", text + text), ("NULs", text + bytes(9))):
        yield f"038 {name}", with_json(raw), INVALID, ""
    for key, value in (
        ("required", "x"),
        ("schemes", {}),
        ("metadata", []),
        ("optional", 1),
        ("required", [1]),
        ("schemes", [1]),
    ):
        yield (
            f"039 {key} is {value!r}",
            with_document(lambda d, k=key, v=value: d.__setitem__(k, v)),
            INVALID,
            f"json.{key}",
        )
    for key in good:
        yield f"041 no {key}", with_document(lambda d, k=key: d.pop(k)), INVALID, f"json.{key}"
    yield (
        "045 odd keys",
        with_document(lambda d: d["metadata"].update({"__class__": 1, "__proto__": {}, "%s%n{0.__class__}": 2})),
        None,
        "",
    )


def names() -> Iterator[Case]:
    def renamed(old: str, new: bytes) -> bytes:
        def change(parts: Parts) -> None:
            number = row(old, parts)
            start = int(parts.records["name_offset"][number])
            length = int(parts.records["name_length"][number])
            parts.names = parts.names[:start] + new + parts.names[start + length :]
            parts.records["name_length"][number] = len(new)
            offsets = np.cumsum(parts.records["name_length"][:-1], dtype=np.uint64)
            parts.records["name_offset"][1:] = offsets

        return changed(change)

    last = "zeros"
    for new in (b"", b"z" * 513):
        yield f"042 name of {len(new)}", renamed(last, new), INVALID, "name_length"
    for new in (b".", b"..", b"z/../b", b"/abs", b"z//b", b"z/", b"z ", b" z"):
        expected = "plain path" if new[:1] not in b"./ " else ""
        yield f"042 name {new!r}", renamed(last, new), INVALID, expected
    for new in (b"z\\x", b"z\x00", b"z\x1b[31m", b"z\x7f", "zé".encode(), "z\u202e".encode(), b"z\n"):
        yield f"043 name {new!r}", renamed(last, new), INVALID, "printable ASCII"
    yield "057 name twice", renamed("tied", b"empty"), INVALID, "a name twice"
    yield "055 names not sorted", renamed("a.weight", b"y.weight"), INVALID, "not sorted"
    for new in (b"__proto__z", b"z%s%n{0.__class__}"):
        yield f"046 name {new!r}", renamed(last, new if new[:1] == b"z" else b"z" + new), None, ""
    for field, value in (("name_offset", 1), ("name_offset", 1 << 63), ("name_length", 1 << 40)):
        yield f"064 {field} {value}", with_field("empty", field, value), INVALID, field
    yield "044 only case differs", renamed("zeros", b"zEROS"), None, ""


def extents() -> Iterator[Case]:
    for value in ((1 << 64) - 64, 1 << 63, len(SAMPLE), 0, 32, 1):
        yield f"048 offset {value}", with_field("b.weight", "offset", value), INVALID, "offset"
    for field in ("length", "stored"):
        for value in (0, 99, 101, 1 << 46, (1 << 64) - 1):
            error = LIMIT if field == "length" and value > 1 << 46 else INVALID
            yield f"049 {field} {value}", with_field("b.weight", field, value), error, "records["
    yield "050 in the preamble", with_field("a.weight", "offset", 0), INVALID, "extents do not follow each other"
    yield (
        "051 overlap",
        with_field("a.weight", "offset", lambda old: old - 64),
        INVALID,
        "extents do not follow each other",
    )
    yield "053 gap", with_field("a.weight", "offset", lambda old: old + 64), INVALID, "extents do not follow each other"
    for off in (1, 32, 63):
        yield (
            f"054 off by {off}",
            with_field("a.weight", "offset", 64 + off),
            INVALID,
            "extents do not follow each other",
        )
    yield "055 order twice", with_field("b.weight", "order", 1), INVALID, "permutation"
    yield "055 order beyond", with_field("b.weight", "order", 1 << 63), INVALID, "permutation"
    yield "056 no bytes", with_field("a.weight", "chunks", 0), INVALID, "chunks do not cover"
    yield "058 unknown kind", with_field("b.weight", "kind", 3), INVALID, "unknown kind"
    yield "058 reserved", with_field("b.weight", "reserved", 1), INVALID, "reserved"
    for value in (1 << 63, 6, NONE):
        yield f"061 target {value}", with_field("tied", "target", value), INVALID, "target"
    yield (
        "061 alias of itself",
        changed(lambda p: p.records["target"].__setitem__(row("tied", p), row("tied", p))),
        INVALID,
        "alias of",
    )
    yield (
        "061 alias of an attachment",
        changed(lambda p: p.records["target"].__setitem__(row("tied", p), row("config.json", p))),
        INVALID,
        "alias",
    )
    for value in (1, 1 << 63):
        yield f"061 scheme {value}", with_field("b.weight", "scheme", value), INVALID, "no such scheme"
    yield "063 codec", changed(lambda p: p.chunks["codec"].__setitem__(0, 9)), INVALID, "chunks[0]"
    for value in (0, 99, 101, (1 << 32) - 1):
        yield (
            f"063 raw of {value}",
            changed(lambda p, v=value: p.chunks["stored"].__setitem__(0, v)),
            INVALID,
            "chunks[0]",
        )
    for value in (0, 2, 1 << 63):
        yield f"063 first chunk {value}", with_field("a.weight", "first_chunk", value), INVALID, "chunks do not follow"
    for field, value in (
        ("previous_offset", 64),
        ("previous_length", 64),
        ("previous_digest", np.void(b"\x01" * 32)),
        ("extents_end", 1 << 63),
        ("extents_end", 0),
        ("reserved_flags", 1),
        ("reserved", np.void(b"\x01" * 24)),
    ):
        yield (
            f"060 {field} {value!r:.20}",
            changed(lambda p, f=field, v=value: p.head.__setitem__(f, v)),
            INVALID,
            "index.",
        )


def shapes() -> Iterator[Case]:
    def shaped(dims: list[int], rank: int | None = None) -> bytes:
        def change(parts: Parts) -> None:
            number = row("b.weight", parts)
            for record in (number, row("tied", parts)):
                parts.records["shape"][record] = dims + [0] * (8 - len(dims))
                parts.records["rank"][record] = len(dims) if rank is None else rank

        return changed(change)

    for dims in ([1 << 31, 1 << 32], [1 << 32, 1 << 32], [1 << 40, 1 << 40], [0, 1 << 40, 1 << 40]):
        yield f"065 shape {dims}", shaped(dims), LIMIT, "too many elements"
    for dims in ([0, 1 << 62, 1 << 62], [(1 << 40) + 1], [1 << 63]):
        yield f"066 shape {dims}", shaped(dims), LIMIT, "a dimension is too large"
    for rank in (9, 1_000_000, 1 << 63):
        yield f"067 rank {rank}", shaped([1], rank), LIMIT, "too many dimensions"
    yield "067 rank below", shaped([1, 2], 1), INVALID, "beyond the rank"
    yield "068 scalar", shaped([]), None, ""
    yield "067 rank 8", shaped([1] * 8), None, ""
    for value in (0, 26, 255, 1 << 63):
        yield f"071 dtype {value}", with_field("b.weight", "dtype", value), INVALID, "unknown dtype"
    yield "080 alias of another shape", with_field("tied", "shape", [4] * 2 + [0] * 6), INVALID, "alias differs"
    yield "080 alias of another dtype", with_field("tied", "dtype", 2), INVALID, "alias differs"


def compressed() -> Iterator[Case]:
    import zstandard

    raw = bytes(range(250)) * 20

    def framed(frame: bytes, length: int = 5000, codec: int = 1) -> bytes:
        """The tensor `zeros` stored as this frame."""
        from blake3 import blake3

        from qformat.container.chunks import checksum

        def change(parts: Parts) -> None:
            number = row("zeros", parts)
            record = parts.records[number]
            at, chunk = int(record["offset"]), int(record["first_chunk"])
            attachment = row("config.json", parts)
            tail = bytes(parts.body[int(parts.records["offset"][attachment]) :][:2])
            parts.body = parts.body[:at] + frame
            parts.body += bytes(-len(parts.body) % 64)
            parts.records["offset"][attachment] = len(parts.body)
            parts.body += tail + bytes(62)
            parts.records["stored"][number] = parts.chunks["stored"][chunk] = len(frame)
            parts.records["length"][number] = parts.records["shape"][number][0] = length
            parts.records["digest"][number] = np.void(blake3(frame).digest())
            parts.chunks["xxh3"][chunk], parts.chunks["codec"][chunk] = checksum(frame), codec
            parts.head["extents_end"] = len(parts.body)

        return changed(change)

    good = zstandard.ZstdCompressor(level=1).compress(raw)
    yield "000 control: a frame", framed(good), None, ""
    yield "081 not a frame", framed(b"x" * 40), INVALID, "not a zstd frame"
    for end in range(1, len(good), max(len(good) // 20, 1)):
        yield f"081 frame cut at {end}", framed(good[:end]), INVALID, ""
    sizeless = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(raw)
    yield "082 no size", framed(sizeless), INVALID, "another size"
    for length in (4999, 5001, 60_000):
        yield f"083 size is not {length}", framed(good, length), INVALID, "another size"
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 26))
    yield "084 bomb", framed(bomb, 60_000), INVALID, "another size"
    # The header's size is right, the blocks (each one byte, repeated 128 KiB times) hold 1.3 GB.
    block = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    lying = b"\x28\xb5\x2f\xfd\x80" + bytes([12 << 3]) + struct.pack("<I", 60_000) + block * 10_000
    yield "084 bomb that lies about its size", framed(lying, 60_000), INVALID, "not a zstd frame"
    big = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True, write_content_size=False)
    )
    yield "086 window", framed(big.compress(raw)), INVALID, ""
    for name, frame in (
        ("two", good + good),
        ("garbage", good + b"x" * 9),
        ("skippable first", b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"abcd" + good),
        ("skippable last", good + b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"abcd"),
    ):
        yield f"087 {name}", framed(frame), INVALID, ""
    samples = [bytes([i % 251]) * 40 + raw[i : i + 200] for i in range(400)]
    dictionary = zstandard.train_dictionary(4096, samples)
    yield "088 dictionary", framed(zstandard.ZstdCompressor(dict_data=dictionary).compress(raw)), INVALID, "dictionary"
    checked = bytearray(zstandard.ZstdCompressor(level=1, write_checksum=True).compress(raw))
    checked[-1] ^= 1
    yield "089 frame checksum", framed(bytes(checked)), INVALID, "zstd frame"
    for version in range(0x1E, 0x28):
        yield (
            f"090 legacy {version:x}",
            framed(bytes([version, 0xB5, 0x2F, 0xFD]) + good[4:]),
            INVALID,
            "not a zstd frame",
        )
    yield "091 zlib", framed(zlib.compress(raw)), INVALID, "not a zstd frame"
    rng = np.random.default_rng(0)
    for number in range(60):
        mangled = bytearray(good)
        mangled[int(rng.integers(len(mangled)))] ^= 1 << int(rng.integers(8))
        yield f"094 frame {number}", framed(bytes(mangled)), "", ""
    yield (
        "095 split of odd length",
        framed(zstandard.ZstdCompressor().compress(raw[:4999]), 4999, 2),
        INVALID,
        "not whole numbers",
    )


def hashes() -> Iterator[Case]:
    def with_byte(name: str, at: int) -> bytes:
        offset = int(Parts(SAMPLE).records["offset"][row(name, Parts(SAMPLE))])
        raw = bytearray(SAMPLE)
        raw[offset + at] ^= 0x10
        return bytes(raw)

    yield "096 extent", with_byte("b.weight", 50), INTEGRITY, "b.weight"
    yield "096 compressed extent", with_byte("zeros", 3), INTEGRITY, "zeros"
    yield "096 attachment", with_byte("config.json", 1), INTEGRITY, "config.json"
    yield "102 padding", with_byte("b.weight", 100), INVALID, "padding is not zero"

    def swap(parts: Parts) -> None:
        parts.body[64:67], parts.body[192:195] = parts.body[192:195], parts.body[64:67]

    yield "097 extents swapped", changed(swap), INTEGRITY, "damaged"
    yield "098 digest of a record", with_field("b.weight", "digest", np.void(bytes(32))), INVALID, "alias differs"
    yield (
        "098 digest of an attachment",
        with_field("config.json", "digest", np.void(bytes(32))),
        INTEGRITY,
        "config.json",
    )
    yield "099 chunk hash", changed(lambda p: p.chunks["xxh3"].__setitem__(0, 0)), INTEGRITY, "chunk 0"
    for number in range(1, len(SAMPLE), len(SAMPLE) // 30):
        yield f"101 byte dropped at {number}", SAMPLE[:number] + SAMPLE[number + 1 :], "", ""
        yield f"101 byte doubled at {number}", SAMPLE[:number] + SAMPLE[number - 1 :], "", ""


FAMILIES = (preambles, index_sizes, documents, names, extents, shapes, compressed, hashes)


def every() -> list[Case]:
    """All cases; an expected error of "" means any typed error."""
    return [case for family in FAMILIES for case in family()]
