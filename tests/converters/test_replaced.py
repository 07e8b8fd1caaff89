"""A set of shards that is overwritten: whole until the new output is, and gone without a trace after that."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import qformat
from qformat.errors import OutputError
from tests.converters.checkpoints import directory, llama

# size of a shard and bits, before and after; in shards 5 → 2, 2 → 5, 3 → 1, 1 → 3, and 3 that are called as before
CHANGES = [((10_000, 4), (40_000, 4)), ((40_000, 4), (10_000, 4)), ((20_000, 4), (None, 4)), ((None, 4), (20_000, 4)),
           ((20_000, 4), (15_000, 3))]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return directory(tmp_path_factory.mktemp("source"), llama(2))


def convert(source: Path, out: Path, made: tuple[int | None, int], **options: Any) -> None:
    out.parent.mkdir(exist_ok=True)
    qformat.convert(source, out, method="rtn", shard_size=made[0], bits=made[1], workers=1, **options)


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("size", [None, 20_000])
def test_files_of_a_finished_run_that_are_gone_are_made_again(
    size: int | None, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its last record and its first rename, and then somebody deletes what looks unfinished."""
    convert(source, tmp_path / "want" / "x.qf", (size, 3))
    want = listing(tmp_path / "want")
    for gone in [name for name in want if size is None or name != "x.qf"]:
        folder = tmp_path / f"without {gone}"
        convert(source, folder / "x.qf", (size, 4))  # an older one
        with monkeypatch.context() as patched, suppress(Killed):
            patched.setattr("qformat.converters.output.os.rename", raises(Killed))
            convert(source, folder / "x.qf", (size, 3), overwrite=True)
        (folder / f"{gone}.partial").unlink()
        convert(source, folder / "x.qf", (size, 3))
        assert listing(folder) == want


def raises(error: type[BaseException]) -> Any:
    def call(*_: Any, **__: Any) -> None:
        raise error

    return call


class Killed(BaseException):
    """No `except Exception` and no cleanup of the run's catches it."""


def killed(monkeypatch: pytest.MonkeyPatch, limit: int, run: Any) -> int:
    """Run until the `limit`-th call of the main thread that changes files, before (odd) or after it; the calls made."""
    calls = 0

    def deadly(call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if threading.current_thread() is not threading.main_thread():
                return call(*args, **kwargs)
            calls += 1
            if calls > limit > 0 or (calls == limit and limit % 2):  # the dead clean nothing up
                raise Killed
            result = call(*args, **kwargs)
            if calls == limit:
                raise Killed
            return result

        return wrapped

    with monkeypatch.context() as patched:
        for name in ("pwrite", "fdatasync", "fsync", "rename", "unlink"):
            patched.setattr(os, name, deadly(getattr(os, name)))
        with suppress(Killed):
            run()
    return calls


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_nothing_of_the_old_set_stays(before: Any, after: Any, source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "fresh" / "x.qf", after)
    convert(source, tmp_path / "over" / "x.qf", before)
    (tmp_path / "over" / "x-00001-of-00099.qf").write_bytes(b"nobody's")
    convert(source, tmp_path / "over" / "x.qf", after, overwrite=True)
    assert listing(tmp_path / "over") == {**listing(tmp_path / "fresh"), "x-00001-of-00099.qf": b"nobody's"}


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_killed_at_the_end(
    before: Any, after: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is there is the old set, whole, or a run that the same command brings to its end."""
    convert(source, tmp_path / "old" / "x.qf", before)
    old = listing(tmp_path / "old")
    convert(source, tmp_path / "fresh" / "x.qf", after)
    fresh = listing(tmp_path / "fresh")
    out = tmp_path / "over" / "x.qf"

    def restored() -> None:
        out.parent.mkdir(exist_ok=True)
        for path in out.parent.iterdir():
            path.unlink()
        for name, data in old.items():
            (out.parent / name).write_bytes(data)

    restored()
    calls = killed(monkeypatch, 0, lambda: convert(source, out, after, overwrite=True))
    assert listing(out.parent) == fresh
    resumed = set()
    for limit in range(calls - 2 * len(old.keys() | fresh.keys()) - 12, calls + 1):
        restored()
        killed(monkeypatch, limit, lambda: convert(source, out, after, overwrite=True))
        left = listing(out.parent)
        whole = all(left.get(name) == data for name, data in old.items())
        resumable = out.with_name("x.qf.journal").exists()
        assert whole or resumable or left == fresh
        resumed.add((whole, resumable))
        convert(source, out, after, overwrite=True)
        assert listing(out.parent) == fresh, limit
    assert {(True, True), (False, True)} <= resumed


def test_a_run_that_fails_leaves_the_old_set(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "x" / "x.qf", (20_000, 4))
    before = listing(tmp_path / "x")

    def fail(done: int, note: str) -> None:
        if "layers.1" in note:
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        convert(source, tmp_path / "x" / "x.qf", (10_000, 4), overwrite=True, progress=fail)
    after = listing(tmp_path / "x")
    assert {name: after[name] for name in before} == before
    qformat.verify(tmp_path / "x" / "x.qf")
    convert(source, tmp_path / "x" / "x.qf", (10_000, 4), overwrite=True)


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_restart_leaves_nothing_of_the_run_before(
    before: Any, after: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its growing files may have other names; a kill on the way is followed by another restart."""
    convert(source, tmp_path / "fresh" / "x.qf", after)
    calls = killed(monkeypatch, 0, lambda: convert(source, tmp_path / "calls" / "x.qf", before))
    for limit in (calls // 2, calls - 8, calls - 6, calls - 4):
        out = tmp_path / f"over{limit}" / "x.qf"
        for kill in (0, 1, 3, 5, 7):
            killed(monkeypatch, limit, lambda out=out: convert(source, out, before, overwrite=True))
            if kill:
                restart = {"overwrite": True, "restart": True}
                killed(monkeypatch, kill, lambda out=out, restart=restart: convert(source, out, after, **restart))
            convert(source, out, after, overwrite=True, restart=True)
            assert listing(out.parent) == listing(tmp_path / "fresh"), (limit, kill)


def test_shards_that_another_set_claims_stay(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "x" / "x.qf", (20_000, 4))
    (tmp_path / "x" / "copy.qf").write_bytes((tmp_path / "x" / "x.qf").read_bytes())
    convert(source, tmp_path / "x" / "x.qf", (None, 4), overwrite=True)
    qformat.verify(tmp_path / "x" / "copy.qf")
    os.unlink(tmp_path / "x" / "copy.qf")
    qformat.verify(tmp_path / "x" / "x.qf")


def test_a_shard_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "x.qf", (40_000, 4))
    before = listing(tmp_path)
    with pytest.raises(OutputError, match=r"x-00001-of-00002\.qf: a shard of x\.qf"):
        convert(source, tmp_path / "x-00001-of-00002.qf", (None, 4), overwrite=True)
    assert listing(tmp_path) == before


def test_names_that_shards_cannot_have_are_refused_at_once(source: Path, tmp_path: Path) -> None:
    def refused(out: str, match: str, **options: Any) -> None:
        before = listing(tmp_path)
        with pytest.raises(OutputError, match=match):
            convert(source, tmp_path / out, (40_000, 4), **options)
        assert listing(tmp_path) == before

    for name in ("x.bin", "x", "é.qf"):
        refused(name, "no name for a shard", overwrite=True)
    (tmp_path / "x-00002-of-00002.qf").write_bytes(b"mine")
    refused("x.qf", r"x-00002-of-00002\.qf: exists; overwrite")
    convert(source, tmp_path / "x.qf", (40_000, 4), overwrite=True)
    (tmp_path / "y-00001-of-00002.qf").symlink_to(tmp_path / "x.qf")
    refused("y.qf", "not a regular file", overwrite=True)
