"""The HTTP door of every service: /metrics for Prometheus, /healthz for probes, / for people."""

import contextlib
import html
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from rpc.addresses import bare_host

Status = Mapping[str, Any]

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem;max-width:60rem}}
td{{padding:.2rem 1.5rem .2rem 0;vertical-align:top}}td:first-child{{color:#555}}</style>
<h1>{title}</h1><table>{rows}</table>
<p><a href="/metrics">metrics</a> · <a href="/healthz">health</a></p>
"""


def http_app(
    role: str, registry: CollectorRegistry, describe: Callable[[], Awaitable[Status]]
) -> Starlette:
    """Return the app. `describe` says how the service is; its "serving" entry decides health."""

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_: Request) -> Response:
        status = await describe()
        return JSONResponse(dict(status), status_code=200 if status["serving"] else 503)

    async def page(_: Request) -> Response:
        status = await describe()
        return HTMLResponse(_PAGE.format(title=f"Vitrine {role}", rows=_rows(status)))

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/", page)]
    )


class HttpServer(uvicorn.Server):
    """Serves an app on an open socket inside the running event loop; leaves signals alone."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: the service decides what a signal means."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """Return a bound TCP socket; raises OSError when the port is taken.

    Args:
        host: a name or an address; one of IPv6 with or without brackets.
        port: 0 takes a free one.
    """
    address = bare_host(host)
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
    except BaseException:
        bound.close()
        raise
    return bound


def _rows(status: Status) -> str:
    return "".join(
        f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in status.items()
    )
