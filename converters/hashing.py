"""BLAKE3 of the source files, in a thread beside the conversion, which reads the same pages at about the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import blake3

from qformat.converters.sources import FileId
from qformat.converters.sources.model import open_regular
from qformat.errors import ChangedError

PIECE = 2**21


def hash_file(file: FileId, stop: threading.Event | None = None) -> str | None:
    """Hex BLAKE3 of a file as it was when the source was opened; None when told to stop."""
    hasher = blake3.blake3()
    buffer = memoryview(bytearray(PIECE))
    descriptor = open_regular(Path(file.path))
    try:
        if not file.matches(os.fstat(descriptor)):
            raise ChangedError("the source changed while it was being read", file=file.path)
        done = 0
        while done < file.size:
            if stop is not None and stop.is_set():
                return None
            count = os.preadv(descriptor, [buffer[: min(PIECE, file.size - done)]], done)
            if count == 0:
                raise ChangedError("the source ends early", file=file.path, offset=done)
            hasher.update(buffer[:count])
            done += count
        if not file.matches(os.fstat(descriptor)):
            raise ChangedError("the source changed while it was being read", file=file.path)
    finally:
        os.close(descriptor)
    return hasher.hexdigest()


class Hashes:
    """The hashes of many files, one after the other in a thread; `known` ones are not read again."""

    def __init__(self, files: Iterable[FileId], known: dict[str, str]) -> None:
        self.done = dict(known)
        self._files = [file for file in files if file.name not in known]
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="qformat-hash", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for file in self._files:
                digest = hash_file(file, self._stop)
                if digest is None:
                    return
                self.done[file.name] = digest
        except Exception as error:  # raised by `wait` in the thread that asked
            self._failure = error

    def wait(self) -> dict[str, str]:
        """Name → hex digest of all files."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.done

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
