"""Sets of shards: opened by the manifest's name, pinned to the very files that they were made with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qformat import container
from qformat.errors import IntegrityError, InvalidFileError, OutputError
from tests.container.files import DENSE, Parts, put, sample


def shard(path: Path, *names: str) -> Path:
    with container.create(path) as writer:
        for name in names:
            writer.tensor(name, scheme=DENSE, dtype="uint8", shape=(len(name),), length=len(name), data=[name.encode()])
        writer.finish({})
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shards = [shard(tmp_path / "m-00001-of-00002.qf", "z", "a"), shard(tmp_path / "m-00002-of-00002.qf", "m.w", "b")]
    container.write_manifest(tmp_path / "m.qf", shards, {"general.name": "m"}, {"config.json": b"{}"})
    return tmp_path / "m.qf"


def test_a_set_is_one_model(model: Path) -> None:
    with container.open(model) as opened:
        assert opened.names() == ["z", "a", "m.w", "b"]
        assert [opened.read(name).tobytes() for name in opened] == [b"z", b"a", b"m.w", b"b"]
        assert opened.record("b").shard == 2
        assert dict(opened.attachments) == {"config.json": b"{}"}
        assert opened.metadata == {"general.name": "m"}
        assert opened.size == sum(path.stat().st_size for path in model.parent.iterdir())
        assert opened.verify() == []
        content = opened.content_digest
    container.edit_metadata(model, {"a": 1})
    with container.open(model) as opened:
        assert opened.content_digest == content


def test_schemes_are_those_of_the_own_shard(tmp_path: Path) -> None:
    dtypes = {"z": "uint8", "a": "int8", "b": "bool"}  # two schemes and one: a wrong number cannot be right by chance
    shards = []
    for number, names in enumerate(("za", "b")):
        with container.create(tmp_path / f"{number}.qf") as writer:
            for name in names:
                scheme = {"coding": {"coding": "dense", "dtype": dtypes[name]}}
                writer.tensor(name, scheme=scheme, dtype=dtypes[name], shape=(1,), length=1, data=[b"\0"])
            writer.finish({})
        shards.append(tmp_path / f"{number}.qf")
    container.write_manifest(tmp_path / "m.qf", shards, {}, {})
    with container.open(tmp_path / "m.qf") as opened:
        found = {name: opened.schemes[opened.record(name).scheme]["coding"]["dtype"] for name in opened}
    assert found == dtypes


def test_missing_shards_are_all_named(model: Path) -> None:
    os.unlink(model.parent / "m-00002-of-00002.qf")
    with pytest.raises(InvalidFileError, match=r"1 of 2 shards are missing: m-00002-of-00002\.qf"):
        container.open(model)


def test_a_shard_of_another_set_is_refused(model: Path) -> None:
    shard(model.parent / "m-00002-of-00002.qf", "m.w", "c")
    with pytest.raises(IntegrityError, match="not the shard that the set was made with"):
        container.open(model)


def test_an_extra_shard_is_nobodys_business(model: Path) -> None:
    shard(model.parent / "m-00003-of-00003.qf", "x")
    with container.open(model) as opened:
        assert len(opened) == 4


BAD_NAMES = [
    "../x.qf",
    "/etc/passwd",
    "..\\x.qf",
    "C:x.qf",
    "\\\\srv\\x.qf",
    "a/../../x.qf",
    "x\x00.qf",
    "CON.qf",
    "x.bin",
    "",
    ".qf/",
    "x.qf ",
    "x" * 253 + ".qf",
    7,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_elsewhere_are_refused(model: Path, name: object) -> None:
    parts = Parts(model.read_bytes())

    def rename(document: dict) -> None:
        document["shards"][0]["file"] = name

    if isinstance(name, str) and "\x00" in name:
        with pytest.raises(InvalidFileError):
            parts.document(rename)
            container.open(put(model.parent, parts.bytes()))
        return
    parts.document(rename)
    with pytest.raises(InvalidFileError, match="not the name of a shard"):
        container.open(put(model.parent, parts.bytes()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["shards"].append(d["shards"][0]), "a shard twice"),
        (lambda d: d.__setitem__("shards", []), "not a table of shards"),
        (lambda d: d.__setitem__("shards", {}), "not a table of shards"),
        (lambda d: d.__setitem__("required", []), "go together"),
        (lambda d: d["shards"][0].pop("size"), "file, size and digest"),
        (lambda d: d["shards"][0].__setitem__("file", "m.qf"), "itself a set"),
        (lambda d: d["shards"][0].__setitem__("size", 7), "not the shard"),
    ],
)
def test_tables_that_make_no_sense_are_refused(model: Path, change: object, message: str) -> None:
    parts = Parts(model.read_bytes())
    parts.document(change)  # type: ignore[arg-type]
    path = put(model.parent, parts.bytes(), "m.qf")
    with pytest.raises((InvalidFileError, IntegrityError), match=message):
        container.open(path)


def test_a_tensor_in_two_shards_is_refused(model: Path) -> None:
    second = shard(model.parent / "m-00003-of-00003.qf", "c", "a")
    parts = Parts(model.read_bytes())
    with container.open(second) as opened:
        row = {"file": second.name, "size": opened.size, "digest": opened.digest}
    parts.document(lambda document: document["shards"].append(row))
    put(model.parent, parts.bytes(), "m.qf")
    with pytest.raises(InvalidFileError, match=r"m\.qf: a: json\.shards: a tensor is in two shards"):
        container.open(model)


def test_what_is_no_set_is_not_written(model: Path) -> None:
    before = model.read_bytes()
    first = model.parent / "m-00001-of-00002.qf"
    for shards, message in (
        ([], "needs a shard"),
        ([first, first], "a: a tensor is in two shards|z: a tensor is in two shards"),
        ([first, shard(model.parent / "n.qf", "a")], r"n\.qf: a: a tensor is in two shards"),
        ([first, model], "is itself a set"),
        ([put(model.parent, sample(), "attached.qf")], "has attachments"),
    ):
        with pytest.raises(OutputError, match=message):
            container.write_manifest(model, shards, {})
        assert model.read_bytes() == before


def test_shards_lie_beside_their_manifest(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(OutputError, match="lies elsewhere"):
        container.write_manifest(tmp_path / "m.qf", [shard(tmp_path / "sub" / "s.qf", "a")], {})


def test_a_shard_that_is_no_file_is_refused_at_once(model: Path) -> None:
    for make in (lambda p: os.mkfifo(p), lambda p: os.symlink("/dev/zero", p)):
        path = model.parent / "m-00001-of-00002.qf"
        path.unlink()
        make(path)
        with pytest.raises(InvalidFileError, match="not a regular file"):
            container.open(model)


def test_a_shard_is_not_edited(model: Path, tmp_path: Path) -> None:
    """The set pins its size and digest, so an edit would break it: also of one that has a name of its own."""
    (tmp_path / "other").mkdir()
    free = shard(tmp_path / "free.qf", "f")
    container.write_manifest(tmp_path / "l.qf", [free, tmp_path / "m-00001-of-00002.qf"], {})
    (tmp_path / "other" / "link.qf").symlink_to(free)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.qf")}
    for name, whole in (("free.qf", "l"), ("m-00002-of-00002.qf", "m"), ("other/link.qf", "l")):
        with pytest.raises(OutputError, match=rf"a shard of {whole}\.qf, .*: edit {whole}\.qf instead"):
            container.edit_metadata(tmp_path / name, {"a": 1})
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.qf")} == before
    container.edit_metadata(model, {"a": 1})  # the set itself
    with container.open(model) as opened:
        assert opened.metadata == {"a": 1, "general.name": "m"}


def test_what_no_set_lists_is_edited(model: Path) -> None:
    """A name alone says nothing, and neither does what else lies there."""
    for name in ("broken.qf", "empty.qf", "m-00003-of-00003.qf.qf"):
        put(model.parent, model.read_bytes()[:-1] if name == "broken.qf" else b"", name)
    os.mkfifo(model.parent / "fifo.qf")
    (model.parent / "folder.qf").mkdir()
    alone = shard(model.parent / "m-00003-of-00003.qf", "x")
    container.edit_metadata(alone, {"a": 1})
    os.unlink(model)
    container.edit_metadata(model.parent / "m-00001-of-00002.qf", {"a": 1})


def test_a_torn_shard_is_recovered(model: Path) -> None:
    """Cutting back to the last whole trailer is what makes the set whole again."""
    path = model.parent / "m-00001-of-00002.qf"
    with path.open("ab") as file:
        file.write(b"torn")
    assert container.recover(path) == 4
    with container.open(model) as opened:
        assert opened.verify() == []


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_set_that_is_replaced_leaves_nothing(model: Path) -> None:
    """By a smaller set or by a file; the names of the shards are anybody's choice."""
    folder = model.parent
    kept = [folder / "m-00001-of-00002.qf", shard(folder / "free.qf", "f"), shard(folder / "mine.qf", "n")]
    container.write_manifest(model, kept, {})
    assert names(folder) == ["free.qf", "m-00001-of-00002.qf", "m.qf", "mine.qf"]
    with pytest.raises(RuntimeError), container.create(model) as writer:
        writer.finish({})
        raise RuntimeError
    assert len(container.open(model)) == 4
    container.write_manifest(folder / "n.qf", [folder / "mine.qf"], {})  # claims what m.qf has, too
    with container.create(model) as writer:
        writer.finish({})
    assert names(folder) == ["m.qf", "mine.qf", "n.qf"]
    assert len(container.open(folder / "n.qf")) == 1


def test_of_a_replaced_set_only_its_own_files_are_deleted(model: Path) -> None:
    """A table may name what was never the set's: such a file has another content, and no name of this set's."""
    folder = model.parent
    parts = Parts(model.read_bytes())
    other = shard(folder / "other-00002-of-00002.qf", "x")

    def claim(document: dict) -> None:
        document["shards"] += [
            {"file": other.name, "size": other.stat().st_size, "digest": "0" * 64},
            {"file": "missing.qf", "size": 1, "digest": "0" * 64},
            {"file": "folder.qf", "size": 1, "digest": "0" * 64},
            {"file": "m-00003-of-00004.qf", "size": 1, "digest": "0" * 64},
        ]

    parts.document(claim)
    put(folder, parts.bytes(), "m.qf")
    (folder / "folder.qf").mkdir()
    (folder / "m-00003-of-00004.qf").mkdir()
    (folder / "m-00002-of-00002.qf").write_bytes(b"damaged")
    with container.create(model) as writer:
        writer.finish({})
    assert names(folder) == ["folder.qf", "m-00003-of-00004.qf", "m.qf", "other-00002-of-00002.qf"]
