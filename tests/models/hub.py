"""A hub on loopback: it answers as the real one does (metadata, a redirect to another host for large files, ETags,
ranges), and misbehaves where it is told to."""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

COMMIT, NEXT_COMMIT = "a1" * 20, "b2" * 20
LARGE_BYTES = 100_000  # from here on a file lies elsewhere, under its sha256
HTML = b"<!DOCTYPE html><html><body>Please sign in to this network</body></html>"
STALL_LIMIT_S = 30.0


@dataclass
class Request:
    server: str
    method: str
    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class Hub:
    """files: path in the repository -> its bytes at the newest commit. faults: `HEAD hub`, `GET cdn` and so on -> what
    the next answers of that kind do, first come first served; `always` in the end repeats the last."""

    files: dict[str, bytes] = field(default_factory=dict)
    commit: str = COMMIT
    history: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: defaultdict[str, deque[str]] = field(default_factory=lambda: defaultdict(deque))
    requests: list[Request] = field(default_factory=list)
    proxied: list[str] = field(default_factory=list)  # the hosts that it was asked for as a proxy

    def __enter__(self) -> Hub:
        self.half_sent, self.go_on = threading.Event(), threading.Event()
        hub = self

        class OfHub(_Handler):
            server_name, answer = "hub", hub._answer_as_hub

        class OfCdn(_Handler):
            server_name, answer = "cdn", hub._answer_as_cdn

        for handler in (OfHub, OfCdn):
            handler.hub = hub
        self._servers = [_Server(("127.0.0.1", 0), handler) for handler in (OfHub, OfCdn)]
        self._threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in self._servers]
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.daemon_threads = False  # joined when the server is closed
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn(self) -> str:
        return f"http://localhost:{self._servers[1].server_port}"

    def fails(self, which: str, *faults: str) -> None:
        self.faults[which].extend(faults)

    def asked(self, method: str, server: str) -> list[Request]:
        return [request for request in self.requests if (request.method, request.server) == (method, server)]

    def _fault(self, which: str) -> str:
        left = self.faults[which]
        if len(left) == 2 and left[1] == "always":
            return left[0]
        return left.popleft() if left else ""

    def _answer_as_hub(self, handler: _Handler) -> None:
        _, _, _, _, revision, path = handler.path.split("/", 5)
        revision, path = unquote(revision), unquote(path)
        fault = self._fault(f"{handler.command} hub")
        commit = self.commit if revision == "main" else revision
        files = self.files if commit == self.commit else self.history.get(commit, {})
        if handler.answered_badly(fault):
            return
        if path not in files:
            handler.answer_with(404, b"Entry not found", {"X-Error-Code": "EntryNotFound"})
            return
        content, sha256 = files[path], hashlib.sha256(files[path]).hexdigest()
        if len(content) >= LARGE_BYTES:
            headers = {
                "Location": f"{self.cdn}/{commit}/{path}",
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(content)),
            }
            handler.answer_with(302, b"Found", headers)
            return
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        handler.send_content(content, {"X-Repo-Commit": commit, "ETag": f'"{git}"'}, fault)

    def _answer_as_cdn(self, handler: _Handler) -> None:
        _, commit, path = handler.path.split("/", 2)
        files = self.files if commit in (self.commit, "taehv") else self.history[commit]
        fault = self._fault(f"{handler.command} cdn")
        if not handler.answered_badly(fault):
            handler.send_content(files[unquote(path)], {"ETag": '"not-a-hash"'}, fault)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    server_name: str

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def _respond(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        url = urlsplit(self.path)
        if url.netloc:  # asked as a proxy
            self.hub.proxied.append(url.netloc)
            self.path = url.path
        self.hub.requests.append(Request(self.server_name, self.command, self.path, headers))
        try:
            type(self).answer(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self) -> None:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        pass

    def answer_with(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answered_badly(self, fault: str) -> bool:
        if fault.isdecimal():
            extra = {"X-Error-Code": "GatedRepo"} if fault == "403" else {}
            self.answer_with(int(fault), b"no", extra)
        elif fault == "html":
            self.answer_with(200, HTML, {"Content-Type": "text/html"})
        elif fault == "hang up":
            self.close_connection = True
        else:
            return False
        return True

    def send_content(self, content: bytes, headers: dict[str, str], fault: str) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and fault != "no ranges" else 0
        if start >= len(content) and start:
            self.answer_with(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        if fault == "wrong bytes":
            content = bytes(content[:-1]) + bytes([content[-1] ^ 1])
        body = content[start:]
        if fault == "longer":
            body += b"more" * 1_000_000
        elif fault == "shorter":
            body = body[:-10]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_response(206 if start else 200)
        for name, value in ({"Content-Length": str(len(body)), "Accept-Ranges": "bytes"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault not in ("cut", "stall"):
            self.wfile.write(body)
            return
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.hub.half_sent.set()
        if fault == "stall":
            self.hub.go_on.wait(STALL_LIMIT_S)
            self.wfile.write(body[len(body) // 2 :])
        else:
            self.close_connection = True
