"""The server of the live pages: it answers GET and HEAD, for this machine alone unless asked to listen further, and writes nothing."""

from __future__ import annotations

import ipaddress
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

from harness.errors import HarnessError, MissingFile, printable
from harness.live.content import POLICY, Pages, error_page

HTML, PNG = "text/html; charset=utf-8", "image/png"
TIMEOUT = 30.0
"""Seconds after which a silent connection is closed."""


class Server(ThreadingHTTPServer):
    """Serves the pages of a results folder. Raises HarnessError if the address cannot be used."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, pages: Pages, host: str, port: int) -> None:
        self.pages, self.host = pages, host
        try:
            self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((host, port), Handler)
        except OSError as error:
            expected = "a free port, or 0 for any; an address of this machine"
            raise HarnessError("cannot listen", where=f"{host}, port {port}", found=error.strerror or error, expected=expected) from error

    @property
    def url(self) -> str:
        """The address of the first page."""
        host, port = self.server_address[:2]
        return f"http://{f'[{host!s}]' if ':' in str(host) else host!s}:{port}/"

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def accepts(self, host: str) -> bool:
        """Whether a request is for this server. A page of elsewhere whose name points to this machine would send its own name."""
        name = urlsplit(f"//{host}").hostname or ""
        if not self.local:
            return True
        try:
            return name == "localhost" or ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == self.host


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    server_version, sys_version = "harness", ""
    timeout = TIMEOUT

    def do_GET(self) -> None:
        """The first page, /runs/RUN, or /runs/RUN/samples/FILE."""
        if not self.server.accepts(self.headers.get("Host", "")):
            return self._send(HTTPStatus.FORBIDDEN, HTML, b"not the name of this server")
        try:
            kind, content = self._content()
        except MissingFile as error:
            return self._send(HTTPStatus.NOT_FOUND, HTML, error_page(error).encode())
        except HarnessError as error:
            return self._send(HTTPStatus.INTERNAL_SERVER_ERROR, HTML, error_page(error).encode())
        return self._send(HTTPStatus.OK, kind, content)

    do_HEAD = do_GET

    def _content(self) -> tuple[str, bytes]:
        pages = self.server.pages
        match [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]:
            case [""]:
                return HTML, pages.overview().encode(errors="replace")
            case ["runs", run_id]:
                return HTML, pages.run(run_id).encode(errors="replace")
            case ["runs", run_id, "samples", name]:
                return PNG, pages.grid(run_id, name)
        raise MissingFile("no such page", where=printable(self.path, 200), expected=f"/ or /runs/{quote('RUN')}")

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "max-age=3600" if kind == PNG else "no-store",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: a page that refreshes itself would fill the terminal."""
