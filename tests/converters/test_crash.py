"""Killed, interrupted, out of disk, twice at once: the same command ends with the same bytes, nothing left over."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import qformat
from qformat.converters import output
from qformat.converters import plan as planning
from qformat.converters.journal import Journal
from qformat.converters.output import Output
from qformat.errors import InterruptedRunError, OutputError
from tests.converters.checkpoints import directory, llama

# A child that converts; with KILL=n it kills itself at the n-th call that changes a file, before or after it is done.
CHILD = """
import os, signal, sys
from qformat.converters import output, plan
plan.SLAB_WEIGHTS = 4096
output.COMMIT_BYTES = 1
limit, calls = int(os.environ.get("KILL", "0")), 0
def deadly(call):
    def wrapped(*args, **kwargs):
        global calls
        calls += 1
        if calls == limit and limit % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*args, **kwargs)
        if calls == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped
for name in ("pwrite", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "replace", "link"):
    setattr(os, name, deadly(getattr(os, name)))
import qformat
qformat.convert(sys.argv[1], sys.argv[2], method="rtn", workers=2, **eval(sys.argv[3]))
print(calls)
"""


def child(root: Path, out: Path, kill: int = 0, options: str = "{}") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CHILD, root, out, options], env={**os.environ, "KILL": str(kill)},
                          capture_output=True, text=True)  # fmt: skip


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def kill_everywhere(tmp_path: Path, kills: int, options: str) -> None:
    root = directory(tmp_path / "m", llama(2))
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    done = child(root, undisturbed / "x.qf", options=options)
    calls = int(done.stdout)
    ending = set(range(max(1, calls - 7), calls + 1))  # `done`, renames, the manifest, the journal's end: all of them
    for number in sorted(ending | {1 + i * (calls - 1) // max(kills - 1, 1) for i in range(kills)}):
        folder = tmp_path / f"kill{number}"
        folder.mkdir()
        killed = child(root, folder / "x.qf", number, options)
        assert killed.returncode in (-signal.SIGKILL, 0), killed.stderr
        again = child(root, folder / "x.qf", options=options)
        assert again.returncode == 0, again.stderr
        assert listing(folder) == listing(undisturbed), number


def test_killed_at_any_write(tmp_path: Path) -> None:
    kill_everywhere(tmp_path, 10, "{}")


def test_shards_killed_at_any_write(tmp_path: Path) -> None:
    kill_everywhere(tmp_path, 6, "{'shard_size': 40000}")


@pytest.mark.slow
@pytest.mark.parametrize("options", ["{}", "{'shard_size': 40000}"])
def test_killed_at_every_write(tmp_path: Path, options: str) -> None:
    kill_everywhere(tmp_path, 10**6, options)


@pytest.mark.slow
def test_200_random_kills(tmp_path: Path) -> None:
    """Again and again into the same output, each time a little further or not."""
    root = directory(tmp_path / "m", llama(8, hidden=256, mlp=768))
    (tmp_path / "undisturbed").mkdir()
    start = time.monotonic()
    assert child(root, tmp_path / "undisturbed" / "x.qf").returncode == 0
    lasts = time.monotonic() - start
    chance, kills, runs = random.Random(0), 0, 0
    while kills < 200:
        folder = tmp_path / f"run{runs}"
        folder.mkdir()
        runs += 1
        while True:
            process = subprocess.Popen([sys.executable, "-c", CHILD, root, folder / "x.qf", "{}"])
            try:
                process.wait(chance.uniform(0.2, 1.05) * lasts)
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            if process.wait() == 0:
                break
        assert listing(folder) == listing(tmp_path / "undisturbed")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_failing_disk_keeps_the_journal(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = directory(tmp_path / "m", llama(2))
    before = {path.name: path.read_bytes() for path in root.iterdir()}
    qformat.convert(root, tmp_path / "good.qf", method="rtn")
    monkeypatch.setattr(output, "COMMIT_BYTES", 1)
    real, count = getattr(os, call), [0]

    def failing(*args: object) -> object:
        count[0] += 1
        if count[0] > 8:
            raise OSError(number, os.strerror(number))
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(OutputError) as caught:
            qformat.convert(root, tmp_path / "x.qf", method="rtn")
    assert caught.value.errno == number
    assert not (tmp_path / "x.qf").exists()
    assert (tmp_path / "x.qf.journal").exists()
    assert {path.name: path.read_bytes() for path in root.iterdir()} == before
    qformat.convert(root, tmp_path / "x.qf", method="rtn")
    assert (tmp_path / "x.qf").read_bytes() == (tmp_path / "good.qf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.qf", "m", "x.qf"]


@pytest.mark.parametrize("lost", ["file", "journal"])
def test_what_a_power_cut_took_is_done_again(lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = directory(tmp_path / "m", llama(2))
    qformat.convert(root, tmp_path / "good.qf", method="rtn")
    monkeypatch.setattr(output, "COMMIT_BYTES", 1)

    def stop(done: int, note: str) -> None:
        if "layers.1" in note:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qformat.convert(root, tmp_path / "x.qf", method="rtn", progress=stop)
    partial, journal = tmp_path / "x.qf.partial", tmp_path / "x.qf.journal"
    if lost == "file":  # the journal speaks of bytes that are not there
        os.truncate(partial, partial.stat().st_size // 2)
    else:  # a record has its end, but not what it said
        raw = bytearray(journal.read_bytes())
        place = raw.rindex(b'"digest":"') + len(b'"digest":"')
        raw[place : place + 1] = b"B" if raw[place : place + 1] == b"A" else b"A"
        journal.write_bytes(raw)
    qformat.convert(root, tmp_path / "x.qf", method="rtn")
    assert (tmp_path / "x.qf").read_bytes() == (tmp_path / "good.qf").read_bytes()


def test_a_file_size_limit(tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(2))
    limited = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n" + CHILD
    failed = subprocess.run(
        [sys.executable, "-c", limited, root, tmp_path / "x.qf", "{}"], capture_output=True, text=True
    )
    assert "OutputError" in failed.stderr
    assert child(root, tmp_path / "x.qf").returncode == 0
    qformat.convert(root, tmp_path / "y.qf", method="rtn")
    assert (tmp_path / "x.qf").read_bytes() == (tmp_path / "y.qf").read_bytes()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(2))
    inside, go_on = threading.Event(), threading.Event()

    def wait(done: int, note: str) -> None:
        inside.set()
        go_on.wait(60)

    first = threading.Thread(target=qformat.convert, args=(root, tmp_path / "x.qf"), kwargs={"progress": wait})
    first.start()
    assert inside.wait(60)
    try:
        with pytest.raises(OutputError, match="another process"):
            qformat.convert(root, tmp_path / "x.qf")
    finally:
        go_on.set()
        first.join()
    qformat.verify(tmp_path / "x.qf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "x.qf"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_at_a_slab_and_resume(number: int, tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(2))
    seen = []

    def interrupt(done: int, note: str) -> None:
        seen.append(note)
        if len(seen) == 8:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(InterruptedRunError) as caught:
        qformat.convert(root, tmp_path / "x.qf", method="rtn", progress=interrupt)
    assert caught.value.exit_code == 75
    assert signal.getsignal(number) is before
    assert (tmp_path / "x.qf.journal").exists()
    again: list[int] = []
    qformat.convert(root, tmp_path / "x.qf", method="rtn", progress=lambda done, note: again.append(done))
    assert again[0] > 0  # it did not begin at the beginning
    qformat.convert(root, tmp_path / "y.qf", method="rtn")
    assert (tmp_path / "x.qf").read_bytes() == (tmp_path / "y.qf").read_bytes()


def test_another_run_does_not_take_over(tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(1))

    def stop(done: int, note: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qformat.convert(root, tmp_path / "x.qf", method="rtn", progress=stop)
    with pytest.raises(OutputError, match="interrupted run") as caught:
        qformat.convert(root, tmp_path / "x.qf", method="rtn", bits=3)
    assert caught.value.field == "fingerprint.recipe.bits"
    qformat.convert(root, tmp_path / "x.qf", method="rtn", bits=3, restart=True)
    with qformat.open(tmp_path / "x.qf") as model:
        assert model["model.layers.0.mlp.up_proj.weight"].bits == 3


def test_a_source_that_changes_on_the_way_is_an_error(tmp_path: Path) -> None:
    root = directory(tmp_path / "m", llama(2))

    def touch(done: int, note: str) -> None:
        os.utime(root / "model.safetensors", (1, 1))

    with pytest.raises(qformat.QFormatError, match="changed"):
        qformat.convert(root, tmp_path / "x.qf", method="rtn", progress=touch)
    assert not (tmp_path / "x.qf").exists()


def test_a_torn_journal_keeps_its_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    journal = Journal(path, {"a": 1})
    journal.append([{"n": i} for i in range(5)])
    journal.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        journal = Journal(path, {"a": 1})
        assert journal.records == [{"n": i} for i in range(max(whole[:cut].count(b"\n") - 1, 0))]
        journal.close()


def test_the_slab_size_is_fixed() -> None:
    """Results may depend on it, so it is part of what a version means."""
    assert planning.SLAB_WEIGHTS == 2**21


def test_a_worker_that_dies_leaves_a_run_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SLAB_WEIGHTS", 4096)
    root = directory(tmp_path / "m", llama(2))
    qformat.convert(root, tmp_path / "whole.qf", method="rtn")
    expected = (tmp_path / "whole.qf").read_bytes()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        worker = pool.submit(os.getpid).result()
        with pytest.raises(InterruptedRunError, match="worker died"):
            qformat.convert(
                root,
                tmp_path / "x.qf",
                method="rtn",
                executor=pool,
                progress=lambda done, name: os.kill(worker, signal.SIGKILL) if "layers.1" in name else None,
            )
    assert not (tmp_path / "x.qf").exists()
    qformat.convert(root, tmp_path / "x.qf", method="rtn")
    assert listing(tmp_path) == {"whole.qf": expected, "x.qf": expected}


def test_whatever_fails_while_committing_comes_out_at_the_next_call(tmp_path: Path) -> None:
    made = Output(tmp_path / "x.qf", [1], {})
    try:
        entry = made.writer.tensor("t", scheme={"coding": {"coding": "dense", "dtype": "uint8"}}, dtype="uint8",
                                   shape=(1,), length=1, data=[b"x"])  # fmt: skip
        made.record(entry, {"name": "t", "note": object()}, 1)  # no JSON
        with pytest.raises(TypeError):
            made.seal({}, {})
    finally:
        made.close()
