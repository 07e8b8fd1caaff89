"""A web server on this machine that answers ranges and remembers what it was asked."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 40  # of whatever a hub is asked for


class Asked:
    """The address of the server and the requests so far: ("HEAD", None) or ("GET", (start, stop)), and for what, with
    what token."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.requests: list[tuple[str, tuple[int, int] | None]] = []
        self.paths: list[str] = []
        self.tokens: list[str | None] = []

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranges that were read."""
        return [part for method, part in self.requests if method == "GET" and part is not None]


@contextlib.contextmanager
def serve(
    files: dict[str, bytes],
    *,
    ranges: bool = True,
    status: int = 404,
    heads: bool = True,
    store: str = "",
    lasts: int = 1 << 30,
) -> Iterator[Asked]:
    """Serve `files` (path → content) while the context lasts; `status` is the answer to what is not there.

    `store` is where a hub keeps large files, by another name of this machine: what is asked for elsewhere is answered
    with an address there, which holds for `lasts` requests. Without `heads` only GET is known.
    """
    left: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        @property
        def _file(self) -> str:
            return self.path.partition("?")[0]

        def do_HEAD(self) -> None:
            self._note("HEAD", None)
            if heads:
                self._answer(False)
            else:
                self._refuse(405)

        def _note(self, method: str, part: tuple[int, int] | None) -> None:
            asked.requests.append((method, part))
            asked.paths.append(self.path)
            asked.tokens.append(self.headers.get("Authorization"))

        def do_GET(self) -> None:
            data = files.get(self._file, b"")
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if ranges else None
            part = (int(found[1]), min(int(found[2]) + 1, len(data))) if found else None
            self._note("GET", part)
            self._answer(True, part)

        def _refuse(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self, body: bool, part: tuple[int, int] | None = None) -> None:
            data = files.get(self._file)
            if data is None:
                self._refuse(status)
                return
            if store and self._file.startswith(store):
                number = int(self.path.partition("?")[2])
                left[number] -= 1
                if left[number] < 0:
                    self._refuse(403)
                    return
            elif store and "/resolve/" in self.path:
                left.append(lasts)
                self.send_response(302)
                port = self.server.server_address[1]
                self.send_header("Location", f"http://localhost:{port}{store}{self._file}?{len(left) - 1}")
                self.send_header("X-Linked-Size", str(len(data)))
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if part else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", '"0"')
            self.send_header("X-Repo-Commit", COMMIT)
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
