"""A reader of .qf files to be read: the whole format once more, in the order of the specification, for clarity.

Here is the container, as in qformat-v1.md; what the bytes of a tensor mean is in decoder.py, as in codings/. The two
share no code with the library, check what they read, and decode every tensor to float32. They are slow.

    python spec/reader.py FILE        prints every tensor with its shape and the sum of its weights
"""

import json
import math
import sys
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace

import blake3
import numpy as np
import xxhash
import zstandard
from decoder import DTYPES, InvalidError, UnsupportedError, decode, need, up


def table(fields):
    return np.dtype([tuple(field.split(":")) for field in fields.split()])


PREAMBLE = table("magic:V8 byte_order:u4 major:u4 reserved:V48")
TRAILER = table("magic:V8 offset:u8 length:u8 file_size:u8 digest:V32 reserved:V56 checksum:u8")
INDEX = table("""magic:V8 minor:u4 reserved_flags:u4 records:u8 chunks:u8 names_length:u8 json_length:u8
                 previous_offset:u8 previous_length:u8 previous_digest:V32 extents_end:u8 reserved:V24""")
RECORD = table("""name_offset:u8 name_length:u8 kind:u8 scheme:u8 dtype:u8 rank:u8 shape:8u8 parameters:4u8 order:u8
                  offset:u8 length:u8 stored:u8 first_chunk:u8 chunks:u8 target:u8 reserved:u8 digest:V32 error:f8
                  max_error:f8""")
CHUNK_ROW = table("stored:u4 codec:u4 xxh3:u8")
TENSOR, ALIAS, ATTACHMENT = range(3)
OF_AN_ALIAS = ("name", "name_offset", "name_length", "kind", "order", "target")  # it has all else from its target
CHUNK, NONE = 4 << 20, 2**64 - 1


def rows_of(raw, kind):
    """The rows of a table, as Python's numbers and bytes."""
    columns = [np.frombuffer(raw, kind)[name].tolist() for name in kind.names]
    return [SimpleNamespace(**dict(zip(kind.names, row, strict=True))) for row in zip(*columns, strict=True)]


class File:
    """A checked file: `tensors` and `attachments` by name, `metadata`; `decode(name)` gives the weights of a tensor."""

    def __init__(self, path):
        self.path, self.raw = Path(path), Path(path).read_bytes()
        need(len(self.raw) >= PREAMBLE.itemsize + TRAILER.itemsize, "shorter than preamble and trailer")
        (preamble,) = rows_of(self.raw[:64], PREAMBLE)
        need(preamble.magic == b"\x89QFM\r\n\x1a\n" and preamble.byte_order == 0x01020304, "preamble")
        need(preamble.major == 1, "major version", UnsupportedError)
        need(not any(preamble.reserved), "preamble.reserved")
        index, head, trailer = self._index_before(len(self.raw))
        self.digest, place, tables = trailer.digest.hex(), INDEX.itemsize, []
        for size in (head.records * RECORD.itemsize, head.chunks * 16, head.names_length, head.json_length):
            tables.append(index[place : place + size])
            end, place = place + size, up(place + size, 64)
            need(place <= len(index) and not any(index[end:place]), "tables of the index")
        need(place == len(index), "index length")
        self._document(tables[3])
        self.chunks, records = rows_of(tables[1], CHUNK_ROW), rows_of(tables[0], RECORD)
        self._records(records, tables[2])
        self._extents(sorted(records, key=lambda r: r.order), head.extents_end)
        while head.previous_length:  # every superseded index is still there, whole, and its trailer behind it
            expected = (head.previous_offset, head.previous_length, head.previous_digest)
            _, head, trailer = self._index_before(trailer.offset)
            need((trailer.offset, trailer.length, trailer.digest) == expected, "superseded index")
        need(trailer.offset == self.extents_end, "bytes between extents and index")

    def _index_before(self, end):
        """The index whose trailer ends at `end`, its header and that trailer."""
        need(end >= PREAMBLE.itemsize + TRAILER.itemsize, "place of a trailer")
        (trailer,) = rows_of(self.raw[end - 128 : end], TRAILER)
        need(trailer.magic == b"QFTRAIL\n" and not any(trailer.reserved), "trailer")
        need(trailer.checksum == xxhash.xxh3_64_intdigest(self.raw[end - 128 : end - 8]), "checksum of a trailer")
        need(trailer.file_size == end == trailer.offset + trailer.length + 128, "place of an index")
        need(trailer.offset % 64 == 0 < trailer.offset and trailer.length >= INDEX.itemsize, "place of an index")
        index = self.raw[trailer.offset : end - 128]
        need(blake3.blake3(index).digest() == trailer.digest, "digest of an index")
        (head,) = rows_of(index[:128], INDEX)
        need(head.magic == b"QFINDEX\n" and head.reserved_flags == 0 and not any(head.reserved), "index header")
        return index, head, trailer

    def _document(self, text):
        def unique(pairs):
            need(len(dict(pairs)) == len(pairs), "duplicate key in JSON")
            return dict(pairs)

        def refused(constant):
            raise InvalidError(constant)

        try:
            document = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=refused)
        except (ValueError, RecursionError) as error:
            raise InvalidError(f"JSON: {error}") from None
        need({"required", "optional", "schemes", "metadata"} <= set(document), "members of the document")
        need(set(document["required"]) <= {"shards"}, "required feature", UnsupportedError)
        self.schemes, self.metadata, self.parts = document["schemes"], document["metadata"], []
        for row in document.get("shards", []):  # each shard is the very file that the set was made with
            part = File(self.path.parent / Path(row["file"]).name)
            need((len(part.raw), part.digest) == (row["size"], row["digest"]) and not part.parts, "shard")
            self.parts.append(part)

    def _records(self, records, pool):
        ends = [0, *accumulate(r.name_length for r in records)]
        need([*(r.name_offset for r in records), len(pool)] == ends, "names follow each other and fill the pool")
        for r in records:
            r.name = pool[r.name_offset :][: r.name_length].decode("ascii", "replace")
            need(r.name and r.name.isascii() and r.name.isprintable() and "\\" not in r.name, f"name {r.name!r}")
            need(r.kind <= ATTACHMENT and r.dtype in DTYPES and r.reserved == 0, r.name)
            need(r.rank <= 8 and max(r.shape) <= 2**40 and not any(r.shape[r.rank :]), f"shape of {r.name}")
            need(math.prod(max(side, 1) for side in r.shape) <= 2**48, f"shape of {r.name}")
            need(r.scheme < len(self.schemes) or (r.kind == ATTACHMENT and r.scheme == NONE), f"scheme of {r.name}")
        for r in records:
            if r.kind == ALIAS:
                need(r.target < len(records) and records[r.target].kind == TENSOR, f"target of {r.name}")
                same = vars(records[r.target]) | {field: getattr(r, field) for field in OF_AN_ALIAS}
                need(str(vars(r)) == str(same), f"alias {r.name}")  # as text, where NaN is NaN
        need(all(a < b for a, b in pairwise((r.kind == ATTACHMENT, r.name) for r in records)), "names are sorted")
        need(sorted(r.order for r in records) == list(range(len(records))), "order")

    def _extents(self, records, end):
        """Extents and their chunks follow each other in execution order, zeros between."""
        self.tensors = {r.name: r for r in records if r.kind != ATTACHMENT}
        self.attachments = {r.name: r for r in records if r.kind == ATTACHMENT}
        place, chunk, self.extents_end = PREAMBLE.itemsize, 0, end
        for r in (r for r in records if r.kind != ALIAS):
            at = up(place, 4096 if r.length >= 65536 else 64)
            need(r.offset == at and not any(self.raw[place:at]), f"extent of {r.name}")
            need(r.first_chunk == chunk and r.chunks == -(-r.length // CHUNK), f"chunks of {r.name}")
            place, chunk = at + r.stored, chunk + r.chunks
        need(up(place, 64) == end and not any(self.raw[place:end]) and chunk == len(self.chunks), "end of the extents")

    def names(self):
        """Tensors in file order."""
        return [*self.tensors, *(name for part in self.parts for name in part.names())]

    def extent(self, r):
        """The logical bytes of a record's extent, every hash checked."""
        stored, pieces, place = self.raw[r.offset : r.offset + r.stored], [], 0
        need(blake3.blake3(stored).digest() == r.digest, f"digest of {r.name}")
        for i, row in enumerate(self.chunks[r.first_chunk : r.first_chunk + r.chunks]):
            piece, place = stored[place : place + row.stored], place + row.stored
            size, what = min(CHUNK, r.length - i * CHUNK), f"chunk {i} of {r.name}"
            need(xxhash.xxh3_64_intdigest(piece) == row.xxh3 and row.codec <= 3, what)
            if row.codec:  # 1 zstd, 2 and 3 zstd over the bytes of 2- and 4-byte items, plane by plane
                piece = zstandard.ZstdDecompressor().decompress(piece, max_output_size=size)
                planes = (1, 2, 4)[row.codec - 1]
                piece = np.frombuffer(piece, np.uint8).reshape(planes, -1).T.tobytes()
            need(len(piece) == size, what)
            pieces.append(piece)
        need(place == len(stored), f"chunks of {r.name}")
        return b"".join(pieces)

    def decode(self, name):
        """The weights in the source's shape, float32 (complex64 for complex)."""
        owner = next(part for part in (self, *self.parts) if name in part.tensors)
        r = owner.tensors[name]
        return decode(owner.schemes[r.scheme], r.shape[: r.rank], r.parameters, owner.extent(r))

    def decode_all(self):
        """Every tensor, by name."""
        return {name: self.decode(name) for name in self.names()}


if __name__ == "__main__":
    for each, weights in File(sys.argv[1]).decode_all().items():
        print(f"{each}  {weights.shape}  sum {weights.sum(dtype=np.float64):.6g}")
