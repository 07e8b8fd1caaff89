"""Coding items with workers: jobs run ahead of the writer by a bounded number, results come back in order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qformat import linear
from qformat.converters import slabs
from qformat.converters.assembly import Assembly
from qformat.converters.methods import METHODS, Method
from qformat.converters.plan import Item
from qformat.converters.slabs import Job, Result
from qformat.errors import QFormatError, SourceError
from qformat.schemes import Scheme


@dataclass
class Encoded:
    """A coded tensor, ready to be written; or `dense_because`, when it must stay as it is."""

    scheme: Scheme | None = None
    parameters: tuple[int, ...] = ()
    assembly: Assembly | None = None
    error: float | None = None
    max_error: float | None = None
    nonfinite: tuple[int, int] = (0, 0)
    dense_because: str | None = None


@dataclass
class _Task:
    """The jobs of one item: those to submit, and those under way."""

    item: Item
    waiting: deque[Job] = field(default_factory=deque)
    flying: deque[Future[Result]] = field(default_factory=deque)


class Encoder:
    """Codes the quantized items of a plan in order, with the jobs of later items already under way.

    Args:
        executor: any `concurrent.futures.Executor`.
        items: the items that are still to do; dense ones and aliases are skipped.
        window: jobs that may be under way or waiting to be taken.
        between: called between slabs with the item and the rows done; raises to stop the run.
        directory, memory: where and above which size an extent is put together in a file.
    """

    def __init__(
        self,
        executor: Executor,
        items: Iterable[Item],
        *,
        window: int,
        between: Callable[[Item, int], None],
        directory: Path,
        memory: int,
    ) -> None:
        self._executor, self._window, self._between = executor, window, between
        self._directory, self._memory = directory, np.empty(memory, np.uint8)
        self._coming = (item for item in items if item.action == "quantize")
        self._tasks: deque[_Task] = deque()
        self._count = 0

    def encode(self, item: Item) -> Encoded:
        """Code `item`, which must be the next one of the items given."""
        self._fill()
        task = self._tasks[0]
        if task.item is not item:
            raise QFormatError("items must be coded in the order of the plan", tensor=item.name)
        try:
            return self._encode(task)
        except QFormatError as error:
            error.tensor = error.tensor or item.name
            raise
        finally:
            for future in task.flying:
                future.cancel()
            self._count -= len(task.flying)
            self._tasks.popleft()

    def _encode(self, task: _Task) -> Encoded:
        item, method = task.item, METHODS[task.item.method or ""]
        options, state = dict(item.options), None
        guessed = _guess(method, options)
        if not guessed and _looks_first(item, method):
            found = list(self._results(task))
            if (why := next((result.problem for result in found if result.problem is not None), None)) is not None:
                return Encoded(nonfinite=_sums(result.nonfinite for result in found), dense_because=why)
            state = method.combine([result.state for result in found if result.state is not None])
            options = dict(method.settle(options, state))
            task.waiting.extend(slabs.jobs(item, options, state))
        elif guessed:
            options = {**options, "scale_dtype": "float16"}
        encoded = self._collect(task, method, options, state)
        if encoded is None:  # the guess was wrong: float16 does not hold this tensor's scales
            options = {**options, "scale_dtype": "float32"}
            task.waiting = deque(slabs.jobs(item, options))
            encoded = self._collect(task, method, options, None)
            assert encoded is not None
        return encoded

    def _collect(
        self, task: _Task, method: Method, options: dict[str, Any], state: dict[str, Any] | None
    ) -> Encoded | None:
        """Put the coded slabs together; None when they were coded on a guess that the whole tensor refutes."""
        item = task.item
        assembly: Assembly | None = None
        errors, states, nonfinite, problems = [], [], [], []
        first: Result | None = None
        for result in self._results(task):
            nonfinite.append(result.nonfinite)
            if result.problem is not None:
                problems.append(result.problem)
                continue
            if assembly is None:
                first = result
                alone = len(item.slabs()) == 1
                parameters = result.parameters if alone else method.count(options, item.matrix, state or {})
                assert result.scheme is not None
                extent = linear.layout(result.scheme, item.matrix, parameters)
                assembly = Assembly(extent.length, extent.places, self._directory, self._memory)
            assert first is not None and result.errors is not None
            if result.scheme != first.scheme:
                raise QFormatError("slabs of one tensor must share a scheme", tensor=item.name)
            assembly.add(result.places)
            errors.append(result.errors)
            states.append(result.state)
        sums = _sums(nonfinite)
        looked = [found for found in states if found is not None]
        whole = bool(looked) and len(looked) == len(states)
        if problems or (whole and method.settle(item.options, method.combine(looked)) != options):
            if assembly is not None:
                assembly.close()
            refused = any(sums) and options["nonfinite"] == "refuse"
            if options.get("scale_dtype") == "float16" and item.options.get("scale_dtype") == "auto" and not refused:
                return None
            return Encoded(nonfinite=sums, dense_because=problems[0])
        assert first is not None and assembly is not None
        error, largest = relative_error(np.concatenate(errors))
        return Encoded(first.scheme, parameters, assembly, error, largest, sums)

    def _results(self, task: _Task) -> Iterator[Result]:
        """Results of all waiting jobs of the first task, in order; later tasks are kept under way meanwhile."""
        rows = 0
        while task.waiting or task.flying:
            self._fill()
            if not task.flying:  # the window is full of later work: this one must go on all the same
                self._submit(task)
            self._between(task.item, rows)
            future = task.flying.popleft()
            result = future.result()
            self._count -= 1
            yield result
            rows += 1

    def _submit(self, task: _Task) -> None:
        task.flying.append(self._executor.submit(slabs.run, task.waiting.popleft()))
        self._count += 1

    def _fill(self) -> None:
        """Submit until the window is full: the earliest task first, then items not yet begun."""
        for task in self._tasks:
            while task.waiting and self._count < self._window:
                self._submit(task)
        while self._count < self._window or not self._tasks:
            item = next(self._coming, None)
            if item is None:
                return
            task = _Task(item, deque(_first_jobs(item)))
            self._tasks.append(task)
            while task.waiting and self._count < self._window:
                self._submit(task)


def _guess(method: Method, options: dict[str, Any]) -> bool:
    """Whether the scale type is all that the method looks for: then float16 is tried and rarely wrong."""
    if options.get("scale_dtype") != "auto" or not method.two_pass(options):
        return False
    return not method.two_pass({**options, "scale_dtype": "float16"})


def _looks_first(item: Item, method: Method) -> bool:
    return len(item.slabs()) > 1 and method.two_pass(item.options)


def _first_jobs(item: Item) -> list[Job]:
    method, options = METHODS[item.method or ""], dict(item.options)
    if _guess(method, options):
        return slabs.jobs(item, {**options, "scale_dtype": "float16"}, look=True)
    return slabs.jobs(item, options, survey=_looks_first(item, method))


def _sums(nonfinite: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """NaN and infinities of all slabs."""
    nan, infinite = zip(*nonfinite, strict=True)
    return sum(nan), sum(infinite)


def relative_error(errors: np.ndarray[Any, Any]) -> tuple[float, float]:
    """(relative Frobenius error, largest absolute error) from a row's (squared error, squared norm, largest) each.

    The sums are exact before they are rounded once, so they depend on neither slabs nor instruction sets.
    """
    squared, norm = math.fsum(errors[:, 0]), math.fsum(errors[:, 1])
    largest = float(errors[:, 2].max(initial=0.0))
    return (math.sqrt(squared / norm) if norm else float(squared > 0)), largest


def refusal(item: Item, encoded: Encoded) -> SourceError:
    """What a run raises that was told to stop at a tensor which cannot be coded."""
    return SourceError(
        f"{encoded.dense_because}: {encoded.nonfinite[0]} NaN, {encoded.nonfinite[1]} infinite",
        tensor=item.name,
        file=item.tensor.file.name,
    )
