"""The routes of the page: its files, and the card of a model as JSON. They come before the routes of REST."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from unfreeze.web.card import card

MEDIA_TYPES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
FOLDER = Path(__file__).parent
HEADERS = {
    # Only files of this server and requests to it; images that the user chose are blobs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

# Name of a model, number of a version (None: the newest) -> that number, and the folder. Raises: LookupError.
FindVersion = Callable[[str, int | None], tuple[int, Path]]
RespondAlive = Callable[[Request], Awaitable[Response]]


def routes(find_version: FindVersion, alive: RespondAlive) -> list[BaseRoute]:
    """Returns the routes: the page at `/` for browsers, `alive` there for other clients, and its parts at `/page/`."""

    async def index(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            response = await alive(request)
            response.headers["Vary"] = "Accept"
            return response
        return file_response("index.html", "text/html; charset=utf-8")

    async def page_file(request: Request) -> Response:
        name = request.path_params["name"]
        return file_response(name, MEDIA_TYPES[name]) if name in MEDIA_TYPES else Response(status_code=404)

    async def model_card(request: Request) -> Response:
        return await run_in_threadpool(card_response, find_version, request.query_params)

    return [
        Route("/", index),
        Route("/page/card", model_card),
        Route("/page/{name}", page_file),
    ]


def card_response(find_version: FindVersion, query: Mapping[str, str]) -> Response:
    """Returns the card of `?model=NAME&version=N`; without `version`, that of the newest version."""
    name, version = query.get("model", ""), query.get("version")
    if version is not None and not (version.isascii() and version.isdigit()):
        return JSONResponse({"error": f"version must be a number (found: {version!r})"}, 400, HEADERS)
    try:
        number, folder = find_version(name, int(version) if version else None)
    except LookupError as error:
        return JSONResponse({"error": error.args[0]}, 404, HEADERS)
    return JSONResponse(card(name, number, folder), headers=HEADERS)


def file_response(name: str, media_type: str) -> Response:
    """Returns a file of the page with its headers."""
    vary = {"Vary": "Accept"} if name == "index.html" else {}
    return Response((FOLDER / name).read_bytes(), media_type=media_type, headers=HEADERS | vary)
