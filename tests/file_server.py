"""A server of one file for tests, which can misbehave as servers and connections do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread


class FileServer(ThreadingHTTPServer):
    """Serves ``content`` under every address.

    Attributes:
        requests: First byte asked for by each request so far, None without a Range.
        cuts: After how many bytes of the file each of the next requests loses its connection; None: at the end.
        ranges: Whether Range is honoured.
        status: Answered instead of the file, if set.
        stall: Waited for before a cut.
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.content = content
        self.requests: list[int | None] = []
        self.cuts: list[int | None] = []
        self.ranges = True
        self.status: int | None = None
        self.stall: Event | None = None

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        asked = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
        self.server.requests.append(int(asked[1]) if asked else None)
        start = int(asked[1]) if asked and self.server.ranges else 0
        end = self.server.cuts.pop(0) if self.server.cuts else None
        if self.server.status or start > len(self.server.content):
            return self.send_error(self.server.status or 416)
        self.send_response(206 if start else 200)
        if start:
            size = len(self.server.content)
            self.send_header('Content-Range', f'bytes {start}-{size - 1}/{size}')
        self.send_header('Content-Length', str(len(self.server.content) - start))
        self.end_headers()
        self.wfile.write(self.server.content[start:end])
        if end is not None and self.server.stall is not None:
            self.wfile.flush()
            self.server.stall.wait(30)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    """Run a server while the context lasts."""
    with FileServer(content) as server:
        thread = Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01))
        thread.start()
        try:
            yield server
        finally:
            if server.stall is not None:
                server.stall.set()
            server.shutdown()
            thread.join()
