"""``celldetr view``: slides and their cells in the browser."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer

from celldetr.cli.options import Cells, SlideFiles


def view(
    *,
    cells: Cells,
    slides: SlideFiles = None,
    port: Annotated[
        int, typer.Option(metavar="INT", min=0, max=65535, help="Port to listen at; 0: any that is free.")
    ] = 0,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the page in this computer's browser; else its address is printed.")
    ] = False,
) -> None:
    """Look at slides and their cells in the browser.

    Pan and zoom, colour cells by type, cluster, score or any column, filter them, click one to see its measurements and
    the cells most like it, and teach types of your own. Serves this computer only, at an address that holds a secret,
    until Ctrl-C. Needs the extra `view` (starlette, uvicorn).
    """
    from celldetr.view.server import serve

    def ready(address: str) -> None:
        typer.echo(f"open {address}")
        typer.echo("end with Ctrl-C")
        if open_browser:
            webbrowser.open(address)

    serve(cells, slides or (), port, ready)
