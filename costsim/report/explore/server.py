"""The page's server: on this machine alone, and for nobody who lacks the token.

Every address begins with the token, which no other page can guess. Requests that were sent to
another name, as by a name of the network that was made to lead here, and those that another page
sent, are refused whatever their token. Mistakes are answered by their one line.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from importlib import resources

import uvicorn
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from costsim.base.errors import CostsimError, InputError, one_line, shown
from costsim.base.files import parse_json
from costsim.planning.exploration import Superseded
from costsim.report.explore.controls import Controls
from costsim.report.explore.session import Session
from costsim.report.html import render_template

HOST = "127.0.0.1"
LARGEST_BODY = 64 * 1024
"""Bytes of a question."""

LONGEST_LINE = 1000

Switches = list[tuple[str, str, list[tuple[str, str]]]]


class Guard:
    """Lets a request through that has the token, was sent to this server and by its own page."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.hosts = {f"{HOST}:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with the reason."""
        if scope["type"] == "http" and (told := self._refused(Request(scope))):
            await PlainTextResponse(f"{told}\n", 403)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refused(self, request: Request) -> str:
        """Why; empty where it is not."""
        if request.headers.get("host") not in self.hosts:
            return "Host is not this server's"
        origin = request.headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in self.hosts:
            return "Origin is not this server's page"
        given = request.url.path.split("/")[1]
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return "the token is missing or wrong: take the address that costsim explore printed"
        return ""


def application(session: Session, page: Callable[[str], str], token: str, port: int) -> ASGIApp:
    """The page and what it asks; `page` makes it with a nonce for its script."""

    async def show(_: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        return HTMLResponse(page(nonce), headers=_headers(nonce))

    def answering(answer: Callable[[Controls], object]) -> Callable[[Request], Awaitable[Response]]:
        async def answered(request: Request) -> Response:
            document = await _document(request)
            return await _answer(lambda: answer(Controls.from_json(document)))

        return answered

    async def save(request: Request) -> Response:
        document = await _document(request)
        out = document.pop("out", "") if isinstance(document, dict) else ""
        return await _answer(lambda: session.save(Controls.from_json(document), _path(out)))

    asked = {
        "plan": answering(session.sketch),
        "more": answering(session.more),
        "frontier": answering(session.frontier),
        "whole": answering(session.whole),
        "save": save,
    }
    routes = [Route(f"/{token}/", show)]
    routes += [Route(f"/{token}/{name}", how, methods=["POST"]) for name, how in asked.items()]
    return Guard(Starlette(routes=routes), token, port)


async def _document(request: Request) -> object:
    """The JSON of a question; None where it is none, too long, or says a thing twice."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            return None
    try:
        return parse_json(body, "question")
    except InputError:
        return None


def _path(typed: object) -> str:
    if not isinstance(typed, str):
        raise InputError(f"out: {shown(typed)} is no text")
    return typed


async def _answer(answer: Callable[[], object]) -> Response:
    """What `answer` returns, or the one line of its mistake."""
    try:
        return JSONResponse(await run_in_threadpool(answer), headers=_headers())
    except Superseded:
        return PlainTextResponse("something else was asked since\n", 409)
    except (CostsimError, OSError) as error:
        return PlainTextResponse(f"{one_line(str(error), LONGEST_LINE)}\n", 422, _headers())
    except Exception as error:  # models, solvers and criteria are others' code
        told = one_line(f"{type(error).__name__}: {error}", LONGEST_LINE)
        return PlainTextResponse(f"{told}\n", 500, _headers())


def _headers(nonce: str | None = None) -> dict[str, str]:
    """Nothing is fetched from elsewhere, framed or kept."""
    script = f"script-src 'nonce-{nonce}'; " if nonce else ""
    policy = (
        f"default-src 'none'; {script}style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def page_maker(
    session: Session, start: Controls, model: str, switches: Switches
) -> Callable[[str], str]:
    """What makes the page, given a nonce for its script."""
    files = resources.files("costsim.report.explore")
    script = Markup(files.joinpath("page.js").read_text(encoding="utf-8"))
    css = Markup(files.joinpath("page.css").read_text(encoding="utf-8"))
    return lambda nonce: render_template(
        "explore/page.html",
        own_css=css,
        script=script,
        nonce=nonce,
        model=model,
        switches=switches,
        start=vars(start),
        out=str(session.out),
    )


def listening(port: int) -> socket.socket:
    """A socket of this machine alone; port 0 is any that is free.

    Raises `InputError` where something else is there.
    """
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
        bound.listen()  # so that whoever is told the address may come at once
    except OSError as error:
        bound.close()
        raise InputError(f"--port {port}: {error.strerror or error}; 0 takes a free one") from error
    return bound


def serve(
    session: Session, page: Callable[[str], str], bound: socket.socket, ready: Callable[[str], None]
) -> None:
    """Answer until somebody ends it by Ctrl-C; `ready` is called with the address."""
    port, token = bound.getsockname()[1], secrets.token_urlsafe(24)
    app = application(session, page, token, port)
    config = uvicorn.Config(
        app, log_level=logging.CRITICAL, lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    ready(f"http://{HOST}:{port}/{token}/")
    try:
        asyncio.run(server.serve(sockets=[bound]))
    except KeyboardInterrupt:
        pass
    finally:
        bound.close()
