"""A web server on this machine that answers ranges and remembers what it was asked."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Asked:
    """The address of the server and the requests so far: ("HEAD", None) or ("GET", (start, stop))."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.requests: list[tuple[str, tuple[int, int] | None]] = []

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranges that were read."""
        return [part for method, part in self.requests if method == "GET" and part is not None]


@contextlib.contextmanager
def serve(files: dict[str, bytes], *, ranges: bool = True, status: int = 404) -> Iterator[Asked]:
    """Serve `files` (path → content) while the context lasts; `status` is the answer to what is not there."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        @property
        def _file(self) -> str:
            return self.path.partition("?")[0]

        def do_HEAD(self) -> None:
            asked.requests.append(("HEAD", None))
            self._answer(False)

        def do_GET(self) -> None:
            data = files.get(self._file, b"")
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if ranges else None
            part = (int(found[1]), min(int(found[2]) + 1, len(data))) if found else None
            asked.requests.append(("GET", part))
            self._answer(True, part)

        def _answer(self, body: bool, part: tuple[int, int] | None = None) -> None:
            data = files.get(self._file)
            if data is None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if part else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", '"0"')
            self.send_header("Last-Modified", "Tue, 01 Jan 2030 00:00:00 GMT")
            if part:
                self.send_header("Content-Range", f"bytes {part[0]}-{part[1] - 1}/{len(data)}")
                data = data[slice(*part)]
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing: a test's output is its own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    asked = Asked(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
