"""The specification's tables are the code's constants; the JSON Schema describes the documents that are written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from qformat import container, dtypes
from qformat.container import records, strictjson
from tests.container.files import Parts, put, sample

SPEC = Path(__file__).parents[2] / "spec"
TEXT = (SPEC / "qformat-v1.md").read_text()


def table(name: str) -> list[list[str]]:
    """Rows of the table after its marker."""
    found = re.search(rf"<!-- table: {name} -->\n((?:\|.*\n)+)", TEXT)
    assert found, name
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()[2:]]


@pytest.mark.parametrize("name", ["PREAMBLE", "TRAILER", "INDEX", "RECORD", "CHUNK_ROW"])
def test_byte_tables(name: str) -> None:
    dtype: np.dtype = getattr(records, name)
    assert dtype.fields is not None
    listed = [(row[2], int(row[0]), int(row[1])) for row in table(name)]
    assert listed == [(field, at, kind.itemsize) for field, (kind, at, *_) in dtype.fields.items()]
    assert listed[-1][1] + listed[-1][2] == dtype.itemsize


def test_storage_types() -> None:
    assert [(int(i), name, int(bits)) for i, name, bits in table("dtypes")] == [
        (row.id, name, row.bits) for name, row in dtypes.TABLE.items()
    ]


def test_magics_are_the_ones_in_the_text() -> None:
    assert " ".join(f"{b:02X}" for b in records.MAGIC) in TEXT
    assert records.TRAILER_MAGIC == b"QFTRAIL\n" and "`QFTRAIL\\n`" in TEXT
    assert records.INDEX_MAGIC == b"QFINDEX\n" and "`QFINDEX\\n`" in TEXT


def test_documents_match_the_schema(tmp_path: Path) -> None:
    schema = json.loads((SPEC / "index.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    parts = Parts(sample())
    validator.validate(strictjson.json.loads(parts.json))
    with container.create(tmp_path / "s.qf") as writer:
        writer.finish({})
    container.write_manifest(tmp_path / "m.qf", [tmp_path / "s.qf"], {})
    validator.validate(strictjson.json.loads(Parts((tmp_path / "m.qf").read_bytes()).json))
    assert not validator.is_valid(
        {"required": [], "optional": [], "schemes": [{"coding": {"coding": "new"}}], "metadata": {}}
    )


def test_hash_vectors() -> None:
    """Known answers, so that another implementation can tell the algorithms apart."""
    import blake3

    from qformat.container.chunks import checksum

    assert f"{checksum(b''):016x}" == "2d06800538d394c2"
    assert f"{checksum(bytes(range(64))):016x}" == f"{checksum(np.arange(64, dtype=np.uint8)):016x}"
    assert blake3.blake3(b"").hexdigest() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_a_newer_minor_version_is_read_and_unknown_schemes_are_listed(tmp_path: Path) -> None:
    parts = Parts(sample())
    parts.head["minor"] = 7
    parts.document(lambda d: d["schemes"][0].__setitem__("coding", {"coding": "of a later version"}))
    parts.document(lambda d: d["optional"].append("whatever"))
    with container.open(put(tmp_path, parts.bytes())) as opened:
        assert opened.version == (1, 7)
        assert opened.verify() == []
        assert opened.record("b.weight").shape == (10, 10)
