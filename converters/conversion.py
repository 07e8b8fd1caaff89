"""One conversion while it runs: what is done, what is written, what has been seen on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from qformat import container, dtypes, schemes
from qformat.container import Entry
from qformat.converters.budget import Budget
from qformat.converters.encode import Encoder, refusal
from qformat.converters.hashing import Hashes
from qformat.converters.output import Output
from qformat.converters.plan import Item, Plan
from qformat.converters.provenance import metadata_of
from qformat.converters.slabs import count_nonfinite
from qformat.converters.sources.directory import read_side_file
from qformat.converters.workers import make_pool
from qformat.errors import InterruptedRunError, OutputError

CHUNK = 4 * 2**20
Progress = Callable[[int, str], None]


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        path, digest, size, files: of what was made; bytes of all its files, and how many they are.
        bits_per_weight: of its tensors, before any compression. The plan's is higher where a method sets apart fewer
            weights than it may, and lower where a linear with NaN was left dense.
        nonfinite: tensor → (NaN, infinities).
        left_dense: why an item was not coded.
    """

    path: Path
    digest: str
    size: int
    files: int
    bits_per_weight: float
    plan: Plan
    nonfinite: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    left_dense: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    up_to_date: bool = False


def bits_per_weight(made: container.Container) -> float:
    """Bits of all extents for each weight; 0 of nothing."""
    records = [record for record in map(made.record, made.names()) if record.target is None]
    weights = sum(prod(record.shape) for record in records)
    return 8 * sum(record.length for record in records) / weights if weights else 0.0


@dataclass
class Conversion:
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
        except BrokenExecutor as error:
            raise InterruptedRunError(
                "a worker died; the same command goes on from here", file=str(self.out)
            ) from error
        finally:
            output.close()
        with container.open(self.out) as made:
            found = made.digest, made.size, len(made.parts), bits_per_weight(made)
        return Report(self.out, *found, self.plan, self.nonfinite, self.left_dense, self.errors)

    def _write(self, output: Output, executor: Executor | None) -> None:
        source = self.plan.source
        hashes = Hashes(source.files, output.hashes)
        pool = executor or make_pool(self.budget.workers)
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
                raise refusal(item, encoded)
            note["dense"] = encoded.dense_because
            return self._dense(output, item.dense(encoded.dense_because), note)
        assert encoded.assembly is not None and encoded.scheme is not None
        note["error"] = encoded.error
        try:
            return output.writer.tensor(
                item.name,
                scheme=schemes.dump(encoded.scheme),
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
            scheme=schemes.dump(item.scheme),
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
