"""Who receives alerts in tests: a real mail server and a real webhook on the loopback."""

from __future__ import annotations

import email
import email.policy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from kraken_pipeline_tests.support.servers import HOST, Port

HUNTER = "hunter2-is-secret"
WARNINGS = [
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS"),  # aiosmtpd, on the loopback
    pytest.mark.filterwarnings("ignore:'imghdr' is deprecated"),  # what Apprise imports
]
"""The marks of tests that use them."""


@dataclass(slots=True)
class Received:
    """What a receiver got: title and text of each message, in the order of arrival.

    Attributes:
        url: Its address for KRAKEN_ALERT_URLS.
        messages: The messages that it accepted.
        is_refusing: Whether it refuses messages.
        refused: The number of messages that it refused.
    """

    url: str
    messages: list[tuple[str, str]] = field(default_factory=list)
    is_refusing: bool = False
    refused: int = 0

    @property
    def all(self) -> str:
        """All that it was told."""
        return "\n".join(f"{title}\n{text}" for title, text in self.messages)


@contextmanager
def webhook() -> Iterator[Received]:
    """A webhook that takes JSON."""
    received = Received("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if received.is_refusing:
                received.refused += 1
                self.send_response(503)
            else:
                received.messages.append((content["title"], content["message"]))
                self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        received.url = f"json://me:{HUNTER}@{HOST}:{server.server_address[1]}/alerts"
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def mail_server() -> Iterator[Received]:
    """A mail server that wants a password."""
    port = Port()
    received = Received(
        f"mailto://me:{HUNTER}@{HOST}:{port.number}?from=pipeline@example.com&to=you@example.com&mode=insecure"
    )

    class Handler:
        async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - by its caller
            message = email.message_from_bytes(envelope.content, policy=email.policy.default)
            body = message.get_body(("plain",))
            assert body is not None
            received.messages.append((str(message["Subject"]), body.get_content().replace("\r\n", "\n")))
            return "250 OK"

    def knows(_server: Any, _session: Any, _envelope: Any, _mechanism: Any, data: Any) -> AuthResult:
        return AuthResult(success=data.login == b"me" and data.password == HUNTER.encode())

    number = port.number
    port.close()
    controller = Controller(
        Handler(), hostname=HOST, port=number, authenticator=knows, auth_required=True, auth_require_tls=False
    )
    controller.start()
    try:
        yield received
    finally:
        controller.stop()
