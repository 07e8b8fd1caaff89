"""Checkpoints made to hurt: each is refused with an error that names the file, the tensor or field, and the place."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import blake3
import numpy as np
import pytest

from qformat import convert
from qformat.converters.hashing import hash_file
from qformat.converters.sources import open_source
from qformat.converters.sources.directory import ATTACHMENTS
from qformat.errors import ChangedError, OutputError, SourceError
from tests.converters.checkpoints import directory, entry, llama, raw_safetensors, save

GOOD = entry("F32", [2], 0, 8)
EIGHT = bytes(8)


def refused(path: Path, match: str) -> SourceError:
    with pytest.raises(SourceError, match=match) as caught:
        open_source(path)
    assert caught.value.file is not None
    return caught.value


MALFORMED = {
    "not json": (b"{", b"", "not a JSON object"),
    "null": (b"null", b"", "not a JSON object"),
    "list": (b"[]", b"", "not a JSON object"),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", "JSON"),
    "not utf-8": (b'{"\xff":1}', b"", "JSON"),
    "trailing text": (b"{}{}", b"", "JSON"),
    "unknown dtype": ({"a": entry("F31", [2], 0, 8)}, EIGHT, "unknown dtype"),
    "missing field": ({"a": {"dtype": "F32", "shape": [2]}}, EIGHT, "data_offsets"),
    "unknown field": ({"a": {**GOOD, "x": 1}}, EIGHT, "unknown field"),
    "shape of strings": ({"a": entry("F32", ["2"], 0, 8)}, EIGHT, "bad header entry"),  # type: ignore[list-item]
    "negative dim": ({"a": entry("F32", [-2], 0, 8)}, EIGHT, "out of range"),
    "wrapping shape": ({"a": entry("F32", [2**33, 2**33], 0, 8)}, EIGHT, "too many elements"),
    "zero times huge": ({"a": entry("F32", [0, 2**40, 2**40], 0, 0)}, b"", "too many elements"),
    "rank": ({"a": entry("F32", [1] * 9, 0, 4)}, bytes(4), "too many dimensions"),
    "overlap": ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12), "overlaps"),
    "hole": ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, bytes(12), "hole"),
    "does not begin at 0": ({"a": entry("F32", [1], 4, 8)}, EIGHT, "hole"),
    "backwards": ({"a": entry("F32", [0], 0, -4)}, b"", "ends before it begins"),
    "negative begin": ({"a": entry("F32", [1], -4, 0)}, b"", "overlaps"),
    "past the end": ({"a": entry("F32", [1024], 0, 4096)}, EIGHT, "past the end"),
    "size mismatch": ({"a": entry("F32", [3], 0, 8)}, EIGHT, "disagree"),
    "trailing bytes": ({"a": GOOD}, bytes(9), "after the last tensor"),
    "duplicate name": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
        b"\xff",
        "duplicate key",
    ),
    "duplicate by escape": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"\\u0061":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
        b"\xff",
        "duplicate key",
    ),
    "duplicate field": (
        b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
        b"\xff",
        "duplicate key",
    ),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
    "duplicate metadata": (b'{"__metadata__":{"a":"1","a":"2"}}', b"", "duplicate key"),
    "empty name": ({"": GOOD}, EIGHT, "name"),
    "long name": ({"a" * 513: GOOD}, EIGHT, "name"),
    "control name": ({"a\x1b[31m": GOOD}, EIGHT, "name"),
    "bidi name": ({"a\u202eb": GOOD}, EIGHT, "name"),
    "path name": ({"../a": GOOD}, EIGHT, "name"),
    "huge integer": (
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}',
        b"\xff",
        "JSON|entry",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_safetensors(case: str, tmp_path: Path) -> None:
    header, data, match = MALFORMED[case]
    error = refused(raw_safetensors(tmp_path / "x.safetensors", header, data), match)
    assert "\x1b" not in str(error) and "\u202e" not in str(error)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**64 - 8, 33 * 2**20, 17, 9])
def test_header_length_is_checked_before_it_is_used(length: int, tmp_path: Path) -> None:
    refused(raw_safetensors(tmp_path / "x.safetensors", b"{}", EIGHT[:6], length), "header|JSON")


@pytest.mark.parametrize("size", range(8))
def test_short_files(size: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(size))
    refused(path, "too short")


def test_a_header_of_many_tensors_is_quick_and_small(tmp_path: Path) -> None:
    """Half a million entries in a header at the limit: bounded memory in a fresh process, duplicates still found."""
    names = b",".join(b'"%06x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(500_000))
    good = raw_safetensors(tmp_path / "good.safetensors", b"{" + names + b"}")
    twice = raw_safetensors(
        tmp_path / "twice.safetensors", b"{" + names + b',"000000":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}'
    )
    code = (
        "import resource, sys\n"
        "from qformat.converters.sources.safetensors import read_header\nfrom pathlib import Path\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    print(len(read_header(Path(sys.argv[1]))[1]))\n"
        "except ValueError as error:\n    print(error.args[0])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    for path, expected in ((good, "500000"), (twice, "duplicate or escaped keys in a large header")):
        out = subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
        ).stdout.split("\n")
        assert out[0] == expected
        assert int(out[1]) < 450_000  # KiB


TRAVERSAL = [
    "../x.safetensors",
    "/etc/passwd",
    "..\\x.safetensors",
    "C:x.safetensors",
    "\\\\srv\\x.safetensors",
    "a/../../x.safetensors",
    "x\0.safetensors",
    "CON",
    "CON.safetensors",
    "x.bin",
    "",
    ".x.safetensors",
]


@pytest.mark.parametrize("name", TRAVERSAL)
def test_index_names_only_plain_files(name: str, tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(1), shards=2)
    index = root / "model.safetensors.index.json"
    written = json.loads(index.read_text())
    written["weight_map"]["model.norm.weight"] = name
    index.write_text(json.dumps(written))
    error = refused(root, "plain file name")
    assert error.field == "weight_map"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[]", "JSON object"),
        ("{", "JSON object"),
        ('{"weight_map": []}', "not an object"),
        ('{"weight_map": {"a": 1}}', "not a string"),
        ('{"weight_map": null}', "not an object"),
        ("{}", "not an object"),
        ("[" * 200_000, "JSON object"),
    ],
)
def test_malformed_index(text: str, match: str, tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(1), shards=2)
    (root / "model.safetensors.index.json").write_text(text)
    refused(root, match)


def test_index_and_shards_are_compared(tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(1), shards=2)
    index = root / "model.safetensors.index.json"
    written = json.loads(index.read_text())
    first, last = sorted(set(written["weight_map"].values()))
    index.write_text(json.dumps({"weight_map": {**written["weight_map"], "ghost": last}}))
    assert refused(root, "lacks").tensor == "ghost"
    fewer = dict(written["weight_map"])
    del fewer["model.norm.weight"]
    index.write_text(json.dumps({"weight_map": fewer}))
    assert any("model.norm.weight" in warning for warning in open_source(root).warnings)
    index.write_text(json.dumps(written))
    shutil.copy(root / first, root / last)
    assert refused(root, "two shards").file == str(root / last)
    (root / last).unlink()
    refused(root, "cannot be read")
    index.unlink()
    refused(root, "shards without their index")


def test_links_stay_inside(tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(1))
    outside = shutil.move(root / "model.safetensors", tmp_path / "secret.safetensors")
    for target in (outside, "/dev/zero", tmp_path / "absent", root):
        (root / "model.safetensors").symlink_to(target)
        refused(root, "leads out|cannot be read|not a regular file")
        (root / "model.safetensors").unlink()
    os.mkfifo(root / "model.safetensors")
    refused(root, "not a regular file")
    (root / "model.safetensors").unlink()
    shutil.copy(outside, root / "weights.real")
    (root / "model.safetensors").symlink_to("weights.real")
    assert open_source(root).tensors
    (root / "tokenizer.json").unlink()
    (root / "tokenizer.json").symlink_to("/etc/hostname")
    refused(root, "leads out")


def test_side_files_are_limited(tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(1))
    os.truncate(root / "tokenizer.json", ATTACHMENTS["tokenizer.json"] + 1)
    refused(root, "too large")
    os.truncate(root / "tokenizer.json", 2)
    os.truncate(root / "config.json", 2 * 2**30)
    refused(root, "too large")
    (root / "config.json").write_text('{"model_type": "llama"}')
    (root / "modeling_evil.py").write_text("raise SystemExit")
    assert "modeling_evil.py" not in open_source(root).attachments


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"a": NaN}',
        '{"model_type": 7}',
        '{"hidden_size": 1e18}',
        '{"hidden_size": -1}',
        '{"hidden_size": "4096"}',
        '{"hidden_size": null}',
        '{"hidden_size": 1000000000000000000}',
        '{"text_config": {"hidden_size": -1}}',
        '{"a":' * 100_000,
    ],
)
def test_config_bombs(text: str, tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(1))
    (root / "config.json").write_text(text)
    refused(root, "JSON object|whole number|must be a string")


def test_nothing_of_a_checkpoint_is_imported(tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(1), {"auto_map": {"AutoModel": "modeling_evil.Evil"}})
    (root / "modeling_evil.py").write_text("open('canary', 'w')")
    before = set(sys.modules)
    open_source(root)
    assert not any("evil" in name for name in set(sys.modules) - before)


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("form", ["pickle", "protocol 0", "zip", "safetensors"])
def test_pickles_run_nothing(form: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    bomb = pickle.dumps({"a": Bomb(canary)}, protocol=0 if form == "protocol 0" else 2)
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "pytorch_model.bin")
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", bomb)
            archive.writestr("archive/version", "3\n")
    else:
        path.write_bytes(bomb)
    refused(path, "refused|zip|header")
    assert not canary.exists()


def test_torch_files(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "pytorch_model.bin"

    def saved(value: object, **options: object) -> Path:
        torch.save(value, path, **options)
        return path

    saved({"a": torch.zeros(2), "b": torch.zeros(4, 4).t()})
    refused(path, "contiguous")
    refused(saved({"a": torch.eye(3).to_sparse()}), "plain dense|weights-only|unknown")
    refused(saved({"a": 7}), "plain dense")
    refused(saved([torch.zeros(2)]), "dictionary")
    refused(saved({"a": torch.zeros(2)}, _use_new_zipfile_serialization=False), "not a zip")
    saved({"w": torch.arange(6.0).reshape(2, 3)})
    whole = path.read_bytes()
    with (
        zipfile.ZipFile(path) as archive,
        zipfile.ZipFile(tmp_path / "deflated.bin", "w", zipfile.ZIP_DEFLATED) as other,
    ):
        for info in archive.infolist():
            other.writestr(info.filename, archive.read(info))
    refused(tmp_path / "deflated.bin", "compressed")
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "zip")
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/data.pkl", b"x")
        archive.writestr("a/data.pkl", b"y")
    refused(path, "twice")


def test_quantized_sources_are_refused_by_name(tmp_path: Path) -> None:
    root = directory(tmp_path / "a", llama(1), {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    assert refused(root, "already quantized").found == "gptq"
    header = {"layer.qweight": entry("I32", [2], 0, 8)}
    refused(raw_safetensors(tmp_path / "p.safetensors", header, EIGHT), "packed integers")
    for dtype in ("F8_E4M3", "F8_E8M0", "F4"):
        shape = [16] if dtype == "F4" else [8]
        refused(
            raw_safetensors(tmp_path / "f.safetensors", {"a.weight": entry(dtype, shape, 0, 8)}, EIGHT),
            "already quantized",
        )
    root = directory(tmp_path / "b", llama(1))
    (root / "quantize_config.json").write_text("{}")
    refused(root, "already quantized")


def test_buffers_of_integers_are_not_packed_weights(tmp_path: Path) -> None:
    tensors = {
        "h.0.attn.bias": np.ones((1, 1, 4, 4), bool),
        "embeddings.position_ids": np.arange(4, dtype=np.int64)[None],
    }
    assert len(open_source(save(tmp_path / "x.safetensors", tensors)).tensors) == 2


def test_a_source_that_changes_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", {"a.weight": np.ones((64, 64), np.float32)})
    tensor = open_source(path).tensors["a.weight"]
    assert tensor.read_rows(0, 1).shape == (1, 64)
    with open(path, "r+b") as stream:
        stream.truncate(100)
    with pytest.raises(ChangedError, match="changed") as caught:
        tensor.read_rows(1, 2)
    assert caught.value.tensor == "a.weight"


def test_a_source_that_changes_while_it_is_hashed_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", {"a.weight": np.ones((64, 64), np.float32)})
    (file,) = open_source(path).files

    class Meanwhile(threading.Event):
        def is_set(self) -> bool:
            os.utime(path, ns=(1, 1))
            return False

    assert hash_file(file) == blake3.blake3(path.read_bytes()).hexdigest()
    with pytest.raises(ChangedError, match="changed while it was being read"):
        hash_file(file, Meanwhile())


@pytest.mark.parametrize("linked", [False, True])
def test_the_output_is_never_the_source(tmp_path: Path, linked: bool) -> None:
    source = save(tmp_path / "x.safetensors", {"a.weight": np.ones((64, 64), np.float32)})
    before, out = source.read_bytes(), source
    if linked:  # another name of the same file
        out = tmp_path / "y.qf"
        os.link(source, out)
    with pytest.raises(OutputError, match="the source itself"):
        convert(source, out, method="rtn", bits=4)
    assert source.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {source.name, out.name}


def test_many_failing_opens_leak_nothing(tmp_path: Path) -> None:
    path = raw_safetensors(tmp_path / "x.safetensors", {"a": entry("F32", [3], 0, 8)}, EIGHT)
    good = save(tmp_path / "y.safetensors", {"a": np.ones(1, np.float32)})
    for _ in range(300):
        refused(path, "disagree")
        open_source(good)
    assert len(os.listdir("/proc/self/fd")) < resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4


def test_not_a_checkpoint(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "no such|hub")
    refused(tmp_path, "no model.safetensors")
    (tmp_path / "x.txt").write_text("x")
    refused(tmp_path / "x.txt", "not a checkpoint")
    (tmp_path / "x.safetensors").write_bytes(b"GGUF" + struct.pack("<I", 3) + bytes(64))
    refused(tmp_path / "x.safetensors", "header")
