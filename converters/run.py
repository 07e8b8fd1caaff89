"""Doing a conversion: streaming, parallel, resumable, and the same bytes whatever happens on the way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from qformat import container, dtypes, linear
from qformat.container import Entry
from qformat.converters.budget import Budget, make_budget, parse_size
from qformat.converters.encode import Encoder, require_finite
from qformat.converters.hashing import Hashes, hash_file
from qformat.converters.methods import get_threads, set_threads
from qformat.converters.output import Output, check_target
from qformat.converters.plan import Item, Plan, cut, make_plan
from qformat.converters.provenance import fingerprint_of, metadata_of
from qformat.converters.recipe import Recipe, make_recipe
from qformat.converters.slabs import count_nonfinite
from qformat.converters.sources import open_source
from qformat.converters.sources.directory import read_side_file
from qformat.converters.sources.model import close_files
from qformat.errors import InterruptedRunError, OutputError, QFormatError, RecipeError

CHUNK = 4 * 2**20
NONFINITE = ("dense", "error", "zero", "clamp")
Progress = Callable[[int, str], None]


@dataclass(frozen=True)
class Report:
    """What a conversion did. `nonfinite`: tensor → (NaN, infinities); `left_dense`: why an item was not coded."""

    path: Path
    digest: str
    plan: Plan
    nonfinite: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    left_dense: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    up_to_date: bool = False


def convert(
    src: str | Path,
    out: str | Path,
    *,
    method: str | None = None,
    bits: int | None = None,
    group_size: int | str | None = None,
    recipe: str | Path | Mapping[str, Any] | Recipe | None = None,
    max_memory: str | int = "2GiB",
    workers: int | None = None,
    executor: Executor | None = None,
    compress: bool = False,
    shard_size: str | int | None = None,
    overwrite: bool = False,
    restart: bool = False,
    nonfinite: str = "dense",
    revision: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Convert a checkpoint into one .qf file, or a set of shards with its manifest at `out`.

    Killed at any moment, the same call goes on where it was and ends with the same bytes. If `out` is already what this
    call makes, nothing is done.

    Args:
        src: a Hugging Face directory, a safetensors or .bin file, or a hub id.
        out: the file to write; `out`.partial and `out`.journal stand beside it until it is complete.
        method, bits, group_size, options: of the default method ("ls", 4, 64); over those of `recipe`. A group_size of
            "row" or -1 is the whole row.
        recipe: a YAML file or a mapping, see `qformat.converters.recipe`.
        max_memory: bound on the memory of all processes together.
        workers: threads that code slabs (default: one a processor, fewer if memory is short).
        executor: any other `concurrent.futures.Executor` to run slabs on, such as a cluster's.
        compress: byte-split and compress the floats that stay dense.
        shard_size: cut the output into files of about this size.
        overwrite: replace `out` if it exists.
        restart: discard what an interrupted run of something else left.
        nonfinite: what becomes of a linear with NaN or infinities: it stays "dense" and is reported, is an "error", or
            the numbers become "zero" or are "clamp"ed.
        progress: called with (source bytes done, what is being done).

    Raises:
        SourceError, RecipeError, OutputError: see `qformat.errors`.
        CoverageError: a rule matches nothing that it could change; nothing was written.
        InterruptedRunError: SIGINT or SIGTERM came; the same call resumes.
    """
    if nonfinite not in NONFINITE:
        raise RecipeError("unknown policy", field="nonfinite", expected=", ".join(NONFINITE), found=nonfinite)
    if nonfinite in ("zero", "clamp"):
        options["nonfinite"] = nonfinite
    made = make_recipe(recipe, method=method, bits=bits, group_size=group_size, **options)
    source = open_source(src, revision=revision)
    plan = make_plan(source, made)
    plan.require_coverage()
    out = Path(out)
    check_target(out, source)
    settings = {"compress": compress, "nonfinite": nonfinite}
    limit = parse_size(shard_size) if shard_size is not None else None
    budget = make_budget(plan, parse_size(max_memory), workers, processes=executor is not None)
    fingerprint = fingerprint_of(plan, {**settings, "shard_size": limit})
    if out.exists() and not overwrite and not out.with_name(out.name + ".journal").exists():
        return _existing(out, plan, settings)
    run = _Run(plan, out, budget, settings, progress, cut(plan.items, limit))
    try:
        with _stoppable(run.stop), _threads(executor):
            return run.go(fingerprint, executor, restart)
    finally:
        close_files()


def _existing(out: Path, plan: Plan, settings: dict[str, Any]) -> Report:
    """`out` is there: fine if it is what this run would make, an error otherwise."""
    try:
        with container.open(out) as found:
            metadata, digest = dict(found.metadata), found.digest
    except QFormatError as error:
        raise OutputError("exists; overwrite (--overwrite) replaces it", file=str(out)) from error
    sizes = {row["name"]: row["size"] for row in metadata.get("qformat.source.files", [])}
    if sizes == {file.name: file.size for file in plan.source.files}:
        hashes = {file.name: str(hash_file(file)) for file in plan.source.files}
        expected = metadata_of(plan, settings, hashes, {}, {})
        if all(
            metadata.get(key) == expected[key] for key in ("qformat.source.files", "qformat.recipe", "qformat.tool")
        ):
            return Report(out, digest, plan, up_to_date=True)
    raise OutputError("exists and is something else; overwrite (--overwrite) replaces it", file=str(out))


@dataclass
class _Run:
    """The state of one conversion."""

    plan: Plan
    out: Path
    budget: Budget
    settings: dict[str, Any]
    progress: Progress | None
    counts: list[int]
    stopped: threading.Event = field(default_factory=threading.Event)
    done: int = 0
    nonfinite: dict[str, tuple[int, int]] = field(default_factory=dict)
    left_dense: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)

    def stop(self) -> None:
        """Ask the run to stop at the next slab."""
        self.stopped.set()

    def check(self) -> None:
        if self.stopped.is_set():
            raise InterruptedRunError("interrupted; the same command goes on from here", file=str(self.out))

    def go(self, fingerprint: dict[str, Any], executor: Executor | None, restart: bool) -> Report:
        output = Output(self.out, self.counts, fingerprint, restart=restart)
        try:
            if not output.finished:
                self._write(output, executor)
            attachments, metadata = self._final(output)
            output.publish(attachments, metadata)
        finally:
            output.close()
        with container.open(self.out) as made:
            digest = made.digest
        return Report(self.out, digest, self.plan, self.nonfinite, self.left_dense, self.errors)

    def _write(self, output: Output, executor: Executor | None) -> None:
        source = self.plan.source
        hashes = Hashes(source.files, output.hashes)
        pool = executor or _pool(self.budget.workers)
        try:
            items = self._resume(output)
            encoder = Encoder(
                pool,
                items,
                window=self.budget.window,
                between=self._between,
                directory=self.out.parent,
                memory=self.budget.assembly,
            )
            ends = [sum(self.counts[: i + 1]) for i in range(len(self.counts))]
            position = len(self.plan.items) - len(items)
            for item in [*items, None]:
                while output.shard < len(ends) and position == ends[output.shard]:
                    self._seal(output, hashes, last=output.shard == len(ends) - 1)
                if item is not None:
                    self._one(output, encoder, item)
                    position += 1
        except BaseException:
            with suppress(OutputError):  # what stopped the run is what its caller must see
                output.stop()
            raise
        finally:
            hashes.close()
            if executor is None:
                pool.shutdown(wait=True, cancel_futures=True)

    def _resume(self, output: Output) -> list[Item]:
        """Items still to do; notes of the finished ones are taken over."""
        items = self.plan.items
        for item, note in zip(items, output.notes, strict=False):
            if note["name"] != item.name:
                raise OutputError(
                    "the journal does not fit the plan",
                    file=str(output.journal.path),
                    tensor=item.name,
                    found=note["name"],
                )
            self._take(note)
            self.done += item.tensor.nbytes
        return list(items[len(output.notes) :])

    def _take(self, note: dict[str, Any]) -> None:
        name = note["name"]
        if note.get("nonfinite"):
            self.nonfinite[name] = (note["nonfinite"][0], note["nonfinite"][1])
        if note.get("dense"):
            self.left_dense[name] = note["dense"]
        if note.get("error") is not None:
            self.errors[name] = note["error"]

    def _between(self, item: Item, slabs: int) -> None:
        self.check()
        if self.progress is not None:
            rows = min(item.matrix[0], slabs * item.slab_rows())
            self.progress(self.done + item.tensor.nbytes * rows // max(item.matrix[0], 1), item.name)

    def _one(self, output: Output, encoder: Encoder, item: Item) -> None:
        """Code or copy one tensor, write it and say so in the journal."""
        self.check()
        note: dict[str, Any] = {"name": item.name}
        if item.action == "alias":
            entry = output.writer.alias(item.name, str(item.target))
        elif item.action == "quantize":
            entry = self._coded(output, encoder, item, note)
        else:
            entry = self._dense(output, item, note)
        self._take(note)
        output.record(entry, note, item.length)
        self.done += item.tensor.nbytes
        if self.progress is not None:
            self.progress(self.done, item.name)

    def _coded(self, output: Output, encoder: Encoder, item: Item, note: dict[str, Any]) -> Entry:
        encoded = encoder.encode(item)
        if any(encoded.nonfinite):
            note["nonfinite"] = list(encoded.nonfinite)
        if encoded.dense_because is not None:
            if self.settings["nonfinite"] == "error":
                require_finite(item, encoded)
            note["dense"] = encoded.dense_because
            return self._dense(output, item.dense(encoded.dense_because), note)
        assert encoded.assembly is not None and encoded.scheme is not None
        note["error"] = encoded.error
        try:
            return output.writer.tensor(
                item.name,
                scheme=linear.dump(encoded.scheme),
                dtype=item.tensor.dtype,
                shape=item.tensor.shape,
                length=encoded.assembly.length,
                data=encoded.assembly.chunks(),
                parameters=encoded.parameters,
                error=encoded.error,
                max_error=encoded.max_error,
            )
        finally:
            encoded.assembly.close()

    def _dense(self, output: Output, item: Item, note: dict[str, Any]) -> Entry:
        tensor, size = item.tensor, dtypes.itemsize(item.tensor.dtype)
        found = [0, 0]

        def chunks() -> Iterator[Any]:
            for start in range(0, tensor.nbytes, CHUNK):
                self.check()
                raw = tensor.read_bytes(start, min(start + CHUNK, tensor.nbytes))
                nan, infinite = count_nonfinite(raw.view(dtypes.numpy_dtype(tensor.dtype)), tensor.dtype)
                found[0], found[1] = found[0] + nan, found[1] + infinite
                yield raw
                if self.progress is not None:
                    self.progress(self.done + start + raw.size, item.name)

        floats = dtypes.TABLE[tensor.dtype].kind == "float"
        compression = ("split" if size in (2, 4) else "zstd") if self.settings["compress"] and floats else None
        entry = output.writer.tensor(
            item.name,
            scheme=linear.dump(item.scheme),
            dtype=tensor.dtype,
            shape=tensor.shape,
            length=tensor.nbytes,
            data=chunks(),
            compression=compression,
            itemsize=size,
        )
        if any(found):
            note["nonfinite"] = found
        return entry

    def _seal(self, output: Output, hashes: Hashes, *, last: bool) -> None:
        """Finish a shard; only a plain file carries attachments and metadata itself."""
        if last:
            for name, digest in hashes.wait().items():
                if name not in output.hashes:
                    output.record_hash(name, digest)
        single = len(self.counts) == 1
        attachments, metadata = self._final(output) if single else ({}, {})
        output.seal(attachments, metadata)

    def _final(self, output: Output) -> tuple[dict[str, bytes], dict[str, Any]]:
        if output.finished:
            self._resume(output)
        attachments = {name: read_side_file(file) for name, file in self.plan.source.attachments.items()}
        return attachments, metadata_of(self.plan, self.settings, output.hashes, self.nonfinite, self.left_dense)


class Inline(Executor):
    """One worker: the caller itself, when it asks for the result."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return _Later(fn, args, kwargs)


class _Later(Future[Any]):
    """A future whose work is done by whoever asks first."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self._work = (fn, args, kwargs)

    def result(self, timeout: float | None = None) -> Any:
        fn, args, kwargs = self._work
        return fn(*args, **kwargs)


def _pool(workers: int) -> Executor:
    return Inline() if workers == 1 else ThreadPoolExecutor(workers, thread_name_prefix="qformat-slab")


@contextmanager
def _threads(executor: Executor | None) -> Iterator[None]:
    """Slabs are the parallelism: a native loop uses one thread meanwhile."""
    if executor is not None:
        yield
        return
    before = get_threads()
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)


@contextmanager
def _stoppable(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM ask the run to stop; a second SIGINT is an ordinary KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stop()
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
