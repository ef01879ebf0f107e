"""The page's files and its one document of JSON, as routes that come before those of REST."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from unfreeze.web.card import card

FILES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
HERE = Path(__file__).parent
HEADERS = {
    # Nothing but this server's own files and requests; pictures that the person chose are blobs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

# Name of a model, number of a version (None: the newest) -> that number, and its folder. Raises: LookupError.
FindVersion = Callable[[str, int | None], tuple[int, Path]]
Alive = Callable[[Request], Awaitable[Response]]


def routes(find_version: FindVersion, alive: Alive) -> list[BaseRoute]:
    """The page for browsers at `/`, where `alive` answers all others; what it is made of below `/page/`."""

    async def index(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            answered = await alive(request)
            answered.headers["Vary"] = "Accept"
            return answered
        return file("index.html", "text/html; charset=utf-8")

    async def part(request: Request) -> Response:
        name = request.path_params["name"]
        return file(name, FILES[name]) if name in FILES else Response(status_code=404)

    async def model_card(request: Request) -> Response:
        return await run_in_threadpool(answer_card, find_version, request.query_params)

    return [
        Route("/", index),
        Route("/page/card", model_card),
        Route("/page/{name}", part),
    ]


def answer_card(find_version: FindVersion, asked: Mapping[str, str]) -> Response:
    """The card of `?model=NAME&version=N`; of the newest version without `version`."""
    name, version = asked.get("model", ""), asked.get("version")
    if version is not None and not (version.isascii() and version.isdigit()):
        return JSONResponse({"error": f"version must be a number, received {version!r}"}, 400, HEADERS)
    try:
        number, folder = find_version(name, int(version) if version else None)
    except LookupError as error:
        return JSONResponse({"error": error.args[0]}, 404, HEADERS)
    return JSONResponse(card(name, number, folder), headers=HEADERS)


def file(name: str, media_type: str) -> Response:
    vary = {"Vary": "Accept"} if name == "index.html" else {}
    return Response((HERE / name).read_bytes(), media_type=media_type, headers=HEADERS | vary)
