"""The routes of ``celldetr view``. The browser names slides, rows and columns; no path that it sends is ever opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from celldetr.errors import InputError
from celldetr.teach.journal import ConflictError
from celldetr.view.guard import Guard
from celldetr.view.run import ViewedRun

STATIC: Mapping[str, tuple[str, str]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/app.css": ("app.css", "text/css; charset=utf-8"),
    "/licences.txt": ("licences.txt", "text/plain; charset=utf-8"),
}
KEPT = {"Cache-Control": "private, max-age=86400, immutable"}  # the token in the address is new each time
KIN = 24

MOST_SENT = 2**22  # bytes of a command: the cells of a lasso

Answer = Callable[[ViewedRun, Request], Response]
Command = Callable[[ViewedRun, Any], Any]


def build_app(run: ViewedRun, token: str) -> Guard:
    """The application for one run, below ``/TOKEN/``."""

    def route(path: str, answer: Answer) -> Route:
        # Not async: Starlette calls it in a thread, so that a slow read holds nobody up.
        def endpoint(request: Request) -> Response:
            try:
                return answer(run, request)
            except InputError as error:
                return JSONResponse({"error": str(error)}, 404)

        return Route(path, endpoint, methods=["GET"])

    def command(path: str, answer: Command) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                if int(request.headers.get("content-length", MOST_SENT + 1)) > MOST_SENT:
                    return JSONResponse({"error": "this is too much at once; mark fewer cells"}, 413)
                values = json.loads(await request.body() or b"{}")
                return JSONResponse(await run_in_threadpool(answer, run, values))
            except ConflictError as error:
                return JSONResponse({"error": str(error)}, 409)
            except (InputError, ValueError) as error:
                return JSONResponse({"error": str(error)}, 400)

        return Route(path, endpoint, methods=["POST"])

    routes = [command(path, answer) for path, answer in COMMANDS.items()]
    routes += [route(path, _static(*name)) for path, name in STATIC.items()]
    return Guard(Starlette(routes=routes + [route(path, answer) for path, answer in ROUTES.items()]), token)


def _static(name: str, media_type: str) -> Answer:
    content = (files("celldetr.view") / "static" / name).read_bytes()
    return lambda run, request: Response(content, media_type=media_type)


def _describe(run: ViewedRun, request: Request) -> Response:
    return JSONResponse(run.describe())


def _embeddings(run: ViewedRun, request: Request) -> Response:
    held, of = run.embeddings.read()
    return JSONResponse({"held": held, "of": of})


def _map(run: ViewedRun, request: Request) -> Response:
    done, of = run.map.progress()
    return JSONResponse({"done": done, "of": of})


def _points(run: ViewedRun, request: Request) -> Response:
    return _packed(run.map.points(request.path_params["slide"]).astype("<f4").tobytes())


def _slide(run: ViewedRun, request: Request) -> Response:
    return JSONResponse(run.describe_slide(request.path_params["slide"]))


def _tile(run: ViewedRun, request: Request) -> Response:
    place = (request.path_params[name] for name in ("slide", "level", "column", "row"))
    return Response(run.tile(*place), media_type="image/jpeg", headers=KEPT)


def _thumbnail(run: ViewedRun, request: Request) -> Response:
    return Response(run.thumbnail(request.path_params["slide"]), media_type="image/jpeg", headers=KEPT)


def _crop(run: ViewedRun, request: Request) -> Response:
    values = request.path_params
    return Response(run.crop(values["slide"], values["row"], values["side"]), media_type="image/jpeg", headers=KEPT)


def _centres(run: ViewedRun, request: Request) -> Response:
    return _packed(run.slide(request.path_params["slide"]).cells.centres().astype("<f4").tobytes())


def _column(run: ViewedRun, request: Request) -> Response:
    return _packed(run.slide(request.path_params["slide"]).cells.column(request.query_params.get("name")))


def _outlines(run: ViewedRun, request: Request) -> Response:
    values = request.path_params
    return _packed(run.slide(values["slide"]).cells.square(values["column"], values["row"]))


def _cell(run: ViewedRun, request: Request) -> Response:
    return JSONResponse(run.slide(request.path_params["slide"]).cells.cell(request.path_params["row"]))


def _kin(run: ViewedRun, request: Request) -> Response:
    values = request.path_params
    return JSONResponse(run.kin.nearest(values["slide"], values["row"], KIN, values["scope"]))


def _taught(run: ViewedRun, request: Request) -> Response:
    return JSONResponse(run.taught.describe())


def _marks(run: ViewedRun, request: Request) -> Response:
    return JSONResponse(run.taught.marks(request.path_params["slide"]))


def _typed(run: ViewedRun, request: Request) -> Response:
    return _packed(run.taught.typed(request.path_params["slide"]).astype("<u2").tobytes())


def _proposals(run: ViewedRun, request: Request) -> Response:
    return JSONResponse(run.taught.propose())


def _packed(content: bytes) -> Response:
    return Response(content, media_type="application/octet-stream")


ROUTES: Mapping[str, Answer] = {
    "/run": _describe,
    "/embeddings": _embeddings,
    "/map": _map,
    "/slides/{slide:int}/map": _points,
    "/teach": _taught,
    "/teach/proposals": _proposals,
    "/slides/{slide:int}/marks": _marks,
    "/slides/{slide:int}/typed": _typed,
    "/slides/{slide:int}": _slide,
    "/slides/{slide:int}/thumbnail": _thumbnail,
    "/slides/{slide:int}/tiles/{level:int}/{column:int}/{row:int}": _tile,
    "/slides/{slide:int}/centres": _centres,
    "/slides/{slide:int}/column": _column,
    "/slides/{slide:int}/outlines/{column:int}/{row:int}": _outlines,
    "/slides/{slide:int}/cells/{row:int}": _cell,
    "/slides/{slide:int}/cells/{row:int}/crop/{side:int}": _crop,
    "/slides/{slide:int}/cells/{row:int}/kin/{scope:str}": _kin,
}
COMMANDS: Mapping[str, Command] = {
    "/teach": lambda run, values: run.taught.act(values),
    "/teach/learn": lambda run, values: run.taught.learn(),
    "/teach/save": lambda run, values: run.taught.save(),
}
