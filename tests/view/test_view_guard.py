"""Who is let in."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from celldetr.view.guard import Guard

TOKEN = "the-token"
OWN = {"host": "127.0.0.1:8000"}


def answer(headers: dict[str, str], path: str = f"/{TOKEN}/") -> tuple[int, str]:
    async def here(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.url.path)

    app = Guard(Starlette(routes=[Route("/", here), Route("/a/b", here)]), TOKEN)
    response = TestClient(app).get(path, headers=headers)
    return response.status_code, response.text


@pytest.mark.parametrize(
    "headers",
    [
        OWN,
        {"host": "localhost"},
        {"host": "[::1]:9"},
        OWN | {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"},
        OWN | {"sec-fetch-site": "none"},
    ],
)
def test_the_page_itself_is_let_in(headers: dict[str, str]) -> None:
    assert answer(headers) == (200, "/")
    assert answer(headers, f"/{TOKEN}/a/b") == (200, "/a/b")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "slides.example"},  # DNS rebinding
        {"host": "127.0.0.1.slides.example"},
        {"host": "localhost@slides.example"},
        {"host": "[slides"},
        OWN | {"origin": "http://slides.example"},
        OWN | {"origin": "http://127.0.0.1:9000"},  # another server here
        OWN | {"origin": "https://127.0.0.1:8000"},
        OWN | {"origin": "null"},
        OWN | {"sec-fetch-site": "cross-site"},
        OWN | {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_from_elsewhere_are_not(headers: dict[str, str]) -> None:
    status, text = answer(headers)
    assert status == 403
    assert text != "/"


@pytest.mark.parametrize(
    "path", ["/", "/a/b", "/other/", f"/{TOKEN}x/", f"/{TOKEN[:-1]}/", "//", f"/%20{TOKEN}/", "/é/"]
)
def test_nor_is_anybody_without_the_token(path: str) -> None:
    assert answer(OWN, path)[0] == 403


def test_answers_forbid_what_is_from_elsewhere() -> None:
    app = Guard(Starlette(), TOKEN)
    headers = TestClient(app).get(f"/{TOKEN}/", headers=OWN).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
