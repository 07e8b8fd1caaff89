"""Who codes slabs, and what else a run changes in its process: native threads, signals."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

from qformat.converters.methods import get_threads, set_threads


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


def make_pool(workers: int) -> Executor:
    """Threads, or with one worker the caller."""
    return Inline() if workers == 1 else ThreadPoolExecutor(workers, thread_name_prefix="qformat-slab")


@contextmanager
def one_thread_each(executor: Executor | None) -> Iterator[None]:
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
def stoppable(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM ask the run to stop; a second SIGINT is an ordinary KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, previous[signal.Signals(number)])
        stop()

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
