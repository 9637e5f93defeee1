"""Serve a run to the browser of this computer, until Ctrl-C."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from celldetr.errors import InputError, install
from celldetr.search.collection import Sources

HOST = "127.0.0.1"


def serve(cells: Sources, slides: Sequence[Path], port: int, ready: Callable[[str], None]) -> None:
    """Serve a run, and return when the process is asked to end.

    Args:
        cells: as of ``find_cells``.
        slides: slide files, or folders that hold them.
        port: to listen at; 0: any that is free.
        ready: called with the address, token included, when connections are accepted.

    Raises:
        InputError: Starlette or uvicorn are not installed, the port is taken, no cells, or no such slides.
    """
    try:
        import uvicorn

        from celldetr.view.app import build_app
    except ImportError as error:
        raise InputError(f"celldetr view needs {error.name}, which is not installed: {install('view')}") from None
    from celldetr.slide.malloc import share_heaps
    from celldetr.view.run import ViewedRun

    share_heaps()
    with ViewedRun(cells, slides) as run:
        token = secrets.token_urlsafe(24)
        # Its log of requests would show the token.
        config = uvicorn.Config(
            build_app(run, token),
            HOST,
            port,
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,  # s; a slow read must not keep Ctrl-C waiting
        )
        try:
            listening = config.bind_socket()
        except SystemExit:
            raise InputError(f"`port={port}`: cannot be listened at, another program may use it; try 0") from None
        with listening:
            listening.listen()
            threading.Thread(target=run.prepare, daemon=True).start()
            ready(f"http://{HOST}:{listening.getsockname()[1]}/{token}/")
            # It answers Ctrl-C itself, and then passes it on.
            with suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listening])
