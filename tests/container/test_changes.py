"""Files that are edited, repaired, replaced, killed or cut while they are in use."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blake3
import numpy as np
import pytest
import xxhash

from qformat import container
from qformat.container.verify import verify_extent
from qformat.errors import ChangedError, IntegrityError, InvalidFileError, OutputError, RecipeError
from tests.container.files import DENSE, Parts, put, sample


def test_an_edit_appends_and_keeps_the_content(tmp_path: Path) -> None:
    path = put(tmp_path, sample())
    before = path.read_bytes()
    with container.open(path) as opened:
        content, digest = opened.content_digest, opened.digest
    made = container.edit_metadata(path, {"general.license": "mit", "general.name": None, "list": [1, 2.5, None, "é"]})
    assert path.read_bytes().startswith(before)
    with container.open(path) as opened:
        assert opened.metadata == {"general.license": "mit", "list": [1, 2.5, None, "é"]}
        assert opened.content_digest == content
        assert opened.digest == made != digest
        assert opened.verify() == []
        assert opened.read("tied").tobytes() == bytes(range(100))
    for number in range(3):
        container.edit_metadata(path, {"n": number})
    with container.open(path) as opened:
        assert opened.metadata["n"] == 2
        assert opened.verify() == []


def test_damage_to_a_superseded_index_is_found(tmp_path: Path) -> None:
    path = put(tmp_path, sample())
    inside = path.stat().st_size - 300
    container.edit_metadata(path, {"a": 1})
    raw = bytearray(path.read_bytes())
    raw[inside] ^= 1
    path.write_bytes(raw)
    with container.open(path) as opened:
        assert [error.field for error in opened.verify()] == ["previous"]


def test_a_frame_that_does_not_decompress_is_found(tmp_path: Path) -> None:
    """Every hash agrees: whoever made the file meant it."""
    parts = Parts(sample())
    (row,) = np.flatnonzero(parts.records["length"] == 5000)
    chunk, start = int(parts.records["first_chunk"][row]), int(parts.records["offset"][row])
    stored = slice(start, start + int(parts.records["stored"][row]))
    parts.body[stored] = bytes(stored.stop - stored.start)
    parts.chunks["xxh3"][chunk] = xxhash.xxh3_64_intdigest(parts.body[stored])
    parts.records["digest"][row] = np.void(blake3.blake3(parts.body[stored]).digest())
    with container.open(put(tmp_path, parts.bytes())) as opened:
        assert [error.tensor for error in opened.verify()] == ["zeros"]
        with pytest.raises(InvalidFileError):
            opened.read("zeros")


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\ud800"])
def test_metadata_without_a_json_form_is_refused(tmp_path: Path, value: object) -> None:
    path = put(tmp_path, sample())
    before = path.read_bytes()
    with pytest.raises(RecipeError, match="no JSON form"):
        container.edit_metadata(path, {"a": value})
    assert path.read_bytes() == before


def test_every_torn_edit_is_seen_and_mended(tmp_path: Path) -> None:
    path = put(tmp_path, sample())
    old = path.read_bytes()
    container.edit_metadata(path, {"a": 1})
    new = path.read_bytes()
    for end in range(len(old) + 1, len(new), 37):
        path.write_bytes(new[:end])
        with pytest.raises(InvalidFileError):
            container.open(path)
        assert container.recover(path) == end - len(old)
        assert path.read_bytes() == old
    torn = bytearray(new)
    torn[len(old)] ^= 1  # the trailer reached the disk, the index did not
    path.write_bytes(torn)
    with pytest.raises(IntegrityError):
        container.open(path)
    assert container.recover(path) == len(new) - len(old)
    assert path.read_bytes() == old
    path.write_bytes(new)
    assert container.recover(path) == 0
    path.write_bytes(old[: len(old) // 2])
    with pytest.raises(InvalidFileError, match="no whole file to go back to"):
        container.recover(path)


def test_only_one_edits_at_a_time(tmp_path: Path) -> None:
    import fcntl

    path = put(tmp_path, sample())
    with path.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another process is editing"):
            container.edit_metadata(path, {"a": 1})


def test_nothing_appears_unless_it_is_finished(tmp_path: Path) -> None:
    path = put(tmp_path, b"old")
    with pytest.raises(RuntimeError), container.create(path) as writer:
        writer.attachment("a", b"b")
        raise RuntimeError
    with pytest.raises(OutputError, match="not finished"), container.create(path) as writer:
        writer.attachment("a", b"b")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.qf"]


def test_creation_replaces_in_one_step_and_keeps_the_umask(tmp_path: Path) -> None:
    path = put(tmp_path, sample())
    opened = container.open(path)
    with container.create(path) as writer:
        writer.finish({"new": True})
    assert opened.read("a.weight").tobytes() == b"abc"  # the old file lives on for whoever has it open
    opened.close()
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    with container.open(path) as opened:
        assert opened.metadata == {"new": True}


def test_targets_that_are_not_regular_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("link", "fifo", "folder"):
        with pytest.raises(OutputError, match="not a regular file"), container.create(tmp_path / name):
            raise AssertionError("the block must not run")
    with pytest.raises(OutputError, match="cannot be created"), container.create(tmp_path / "none" / "x.qf"):
        raise AssertionError("the block must not run")


WRITE = """
import sys, numpy as np
from qformat import container
from tests.container.files import DENSE
data = np.full(1 << 22, int(sys.argv[2]), np.uint8)
while True:
    with container.create(sys.argv[1]) as writer:
        for i in range(3):
            writer.tensor(f"w{i}", scheme=DENSE, dtype="uint8", shape=data.shape, length=data.size, data=[data])
        writer.finish({"writer": int(sys.argv[2])})
    print("x", flush=True)
"""


def writer_process(path: Path, value: int) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-P", "-c", WRITE, str(path), str(value)],
        cwd=root,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def whole(path: Path) -> int:
    """The number of the writer whose file this is, every byte of it."""
    with container.open(path) as opened:
        assert opened.verify() == []
        value = int(opened.metadata["writer"])
        assert (np.asarray(opened.read("w2")) == value).all()
        return value


def test_what_a_kill_before_the_rename_left_is_dropped_unless_somebody_holds_it(tmp_path: Path) -> None:
    dead, alive, other = (
        tmp_path / f".{name}.partial" for name in ("x.qf." + "0" * 16, "x.qf." + "1" * 16, "x.qf.mine")
    )
    for path in (dead, alive, other):
        path.write_bytes(b"part")
    with alive.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with container.create(tmp_path / "x.qf") as writer:
            writer.finish({})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.name, other.name, "x.qf"])


def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "x.qf"
    for turn in range(4):
        process = writer_process(path, turn + 1)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.003 * turn)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert whole(path) == turn + 1
    left = [name for name in os.listdir(tmp_path) if name != "x.qf"]
    assert len(left) <= 1  # a kill in the instant between link and rename leaves a whole file under a hidden name


def test_two_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "x.qf"
    processes = [writer_process(path, value) for value in (1, 2)]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        assert {whole(path) for _ in range(10)} <= {1, 2}
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.mark.parametrize("size", [0, 70, 5000])
def test_a_file_that_shrinks_is_a_typed_error(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.qf"
    with container.create(path) as writer:
        writer.tensor("w", scheme=DENSE, dtype="uint8", shape=(1 << 20,), length=1 << 20, data=[bytes([7]) * (1 << 20)])
        writer.finish({})
    with container.open(path) as opened:
        view = opened.read("w")
        os.truncate(path, size)
        assert int(view[-1]) == 0  # not a signal: the lost page reads as zeros
        with pytest.raises(ChangedError, match="changed while it was open"):
            opened.guard()
        with pytest.raises(ChangedError):
            opened.read("w")
        assert [type(error) for error in verify_extent(opened.parts[0], 0, lambda count: None)] == [ChangedError]


def test_a_file_that_is_written_to_is_a_typed_error(tmp_path: Path) -> None:
    path = put(tmp_path, sample())
    with container.open(path) as opened:
        with path.open("r+b") as file:
            file.seek(64)
            file.write(b"x")
        os.utime(path, ns=(1, 1))
        with pytest.raises(ChangedError):
            opened.read("b.weight")


def test_many_failing_opens_leak_nothing(tmp_path: Path) -> None:
    path = put(tmp_path, sample()[:-1])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(300):
        with pytest.raises(InvalidFileError):
            container.open(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_share_files_good_and_bad(tmp_path: Path) -> None:
    path = put(tmp_path, sample())
    damaged = bytearray(sample())
    damaged[64] ^= 1  # the first byte of "b.weight"
    bad = put(tmp_path, bytes(damaged), "bad.qf")
    with container.open(path) as shared, container.open(bad) as broken:

        def work(number: int) -> None:
            for _ in range(20):
                assert shared.read("b.weight").tobytes() == bytes(range(100))
                with pytest.raises(IntegrityError):
                    broken.read("b.weight")
                with container.open(path if number % 2 else bad) as opened:
                    assert opened.read("zeros").size == 5000

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))


def test_a_child_goes_on_reading(tmp_path: Path) -> None:
    with container.open(put(tmp_path, sample())) as opened:
        child = os.fork()
        if child == 0:
            # No cleanup of the parent's: the child says what it found by its exit code alone.
            os._exit(0 if opened.read("b.weight").tobytes() == bytes(range(100)) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert opened.read("zeros").size == 5000
