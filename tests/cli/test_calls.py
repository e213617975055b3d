"""What the command line asks of services beside gRPC."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import orjson
import pytest

from cli.calls import Blocked, why_blocked


@pytest.fixture
def health_page():
    """Serve a health page with a given body; returns its address."""
    servers = []

    def serve(body: bytes) -> str:
        class Page(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(503)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Page)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_gateway_says_what_it_waits_for(health_page):
    page = {"blocked_reason": "ENCODER_MISMATCH", "blocked_on": "another encoder"}
    blocked = why_blocked(health_page(orjson.dumps(page)))
    assert blocked == Blocked("ENCODER_MISMATCH", "another encoder")


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}"])
def test_a_page_that_does_not_say_it_is_no_reason(health_page, body):
    assert why_blocked(health_page(body)) == Blocked()


def test_no_page_at_all_is_no_reason():
    assert why_blocked("127.0.0.1:1", timeout_s=1) == Blocked()
