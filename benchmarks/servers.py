"""S3 servers to measure and to test against: SeaweedFS on this machine's disk, and a proxy that counts and injures.

The proxy stands between a client and any server and does to each request what it is told: an answer of 500 or 503, a
connection that is cut before or after the server has done its work, half an answer, no answer, a slow one, or a request
without its conditions.
"""

import http.client
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

KEY, SECRET, BUCKET = "softlabels", "secret-of-softlabels", "caches"
PATIENCE_SECONDS = 60.0
SLOW_SECONDS, PARTS = 0.02, 8
SILENT_SECONDS = 3.0


def environment(url: str) -> dict[str, str]:
    """What a client of a server finds its address and keys in."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextmanager
def seaweedfs() -> Iterator[str]:
    """The address of an S3 server of its own, with its data in a folder that goes with it."""
    program = Path(sys.executable).with_name("weed")
    ports = _free_ports(8)
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    flags = [f"-{name}={port}" for name, port in zip((*names, "s3.port", "s3.port.grpc"), ports, strict=True)]
    flags += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    flags += ["-master.telemetry=false", "-volume.max=100", "-master.volumeSizeLimitMB=512"]
    identity = {"name": KEY, "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    folder = Path(tempfile.mkdtemp(prefix="softlabels-seaweedfs-"))
    try:
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()
        with (folder / "log").open("wb") as log:
            command = [str(program), "server", f"-dir={folder / 'data'}", f"-s3.config={folder / 's3.json'}", *flags]
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _until_it_answers(ports[6], folder / "log")
            yield f"http://127.0.0.1:{ports[6]}"
        finally:
            server.kill()
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _until_it_answers(port: int, log: Path) -> None:
    """Wait until the server stores an object, as it does only once all of its parts have found each other."""
    import s3fs  # noqa: PLC0415 - the client is an extra

    store = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=f"http://127.0.0.1:{port}", skip_instance_cache=True)
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with suppress(FileExistsError):
                store.mkdir(BUCKET)
            store.pipe_file(f"{BUCKET}/ready", b"1")
            store.rm_file(f"{BUCKET}/ready")
        except Exception:
            if time.monotonic() > until:
                print(log.read_text(errors="replace")[-2000:], file=sys.stderr)
                raise
            time.sleep(0.2)
        else:
            return


Fault = str
FAULTS: tuple[Fault, ...] = ("500", "503", "cut before", "cut after", "half an answer", "no answer", "slow")
"""What may become of a request: each harms no one who asks again."""


@dataclass
class Traffic:
    """What went through a proxy: requests by method and by status, bytes of bodies either way, faults by kind."""

    methods: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)
    sent: int = 0
    received: int = 0


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, server: str, fault: Callable[[str, str], Fault | None], *, conditions: bool) -> None:
        self.upstream, self.fault, self.conditions = urlsplit(server), fault, conditions
        self.traffic, self.guard = Traffic(), threading.Lock()
        super().__init__(("127.0.0.1", 0), _Request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that go away are what this is for."""


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def _pass(self) -> None:
        proxy, traffic = self.server, self.server.traffic
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        what = proxy.fault(self.command, self.path)
        with proxy.guard:
            traffic.methods[self.command] += 1
            traffic.sent += len(body)
            if what:
                traffic.faults[what] += 1
        if what in ("500", "503"):
            self._answer(int(what), [], b"")
            return
        if what == "cut before":
            self._cut()
            return
        status, headers, answer = self._asked(body)
        with proxy.guard:
            traffic.statuses[status] += 1
            traffic.received += len(answer)
        if what == "no answer":
            time.sleep(SILENT_SECONDS)
        if what in ("cut after", "no answer"):
            self._cut()
        else:
            self._answer(status, headers, answer, what)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass

    def _asked(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the server says to this request."""
        upstream, dropped = self.server.upstream, () if self.server.conditions else ("If-None-Match",)
        assert upstream.hostname
        connection = http.client.HTTPConnection(upstream.hostname, upstream.port, timeout=PATIENCE_SECONDS)
        headers = {name: value for name, value in self.headers.items() if name not in dropped}
        try:
            connection.request(self.command, self.path, body or None, headers | {"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], answer: bytes, what: Fault | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(answer)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(answer)))
        self.end_headers()
        if what == "half an answer":
            self.wfile.write(answer[: len(answer) // 2])
            self._cut()
            return
        step = max(1, len(answer) // PARTS) if what == "slow" else max(1, len(answer))
        for start in range(0, len(answer), step):
            time.sleep(SLOW_SECONDS if what == "slow" else 0)
            self.wfile.write(answer[start : start + step])

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Nothing, as above."""


@contextmanager
def proxy(
    server: str, fault: Callable[[str, str], Fault | None] = lambda *_: None, *, conditions: bool = True
) -> Iterator[tuple[str, Traffic]]:
    """The address of a proxy before a server, and its traffic.

    Args:
        server: the address of the server.
        fault: given the method and the path of a request, what shall become of it; None: nothing.
        conditions: whether to pass If-None-Match on; a store that ignores it is one without conditional writes.

    """
    with _Proxy(server, fault, conditions=conditions) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}", listening.traffic
        finally:
            listening.shutdown()
            thread.join()
