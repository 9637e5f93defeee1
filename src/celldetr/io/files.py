"""Files that are whole or not there, also after a power cut.

A file is written under another name, flushed to the disk (``fsync``), renamed, and the directory flushed. Without the
first flush a rename can reach the disk before the content does; without the second the name itself can be lost.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from celldetr.errors import InputError
from celldetr.io.safe_io import JSON_BYTES, read_bytes

GZIP_LEVEL = 4  # half the time of zlib's default for files a tenth larger
ZARR_FILE = "zarr.json"  # in the folder of a Zarr store: no other folder is ever replaced
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.EFBIG,
    errno.EIO, errno.ESTALE,
}  # fmt: skip


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn failures of writing that a user can mend into ``InputError``: disk full, no permission, not a directory."""
    try:
        yield
    except OSError as error:
        for place in (path, *path.parents):
            if place.is_symlink() and not place.exists():
                raise InputError(
                    f"{place}: is a link to nothing ({place.readlink()}); make that folder, or choose another place"
                ) from None
        if error.errno in _FULL:
            raise InputError(f"{path}: the disk is full; free some space and run again") from None
        if error.errno in _REFUSED:
            raise InputError(f"{path}: cannot be written ({os.strerror(error.errno)})") from None
        raise


@contextmanager
def replacing(path: Path, tag: str = "") -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it becomes ``path`` on success and is removed on failure.

    Several processes that may write ``path`` at once each give a unique ``tag``.

    Raises:
        InputError: the disk is full, or the place is not there or cannot be written to.
    """
    temporary = path.with_name(f"{path.name}.{tag}.tmp" if tag else f"{path.name}.tmp")
    with output_errors(path):
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            flush_directory(path.parent)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
                where = f"there is no directory {path.parent}"
                raise InputError(f"{path}: cannot be written ({where}); choose another place") from None
            raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As ``replacing``, of a folder: a temporary path beside ``path``, which is not there yet.

    The old folder is moved aside first, and comes back if the new one cannot take its place; a power cut between the
    two renames leaves both, under temporary names.
    """
    temporary, old = path.with_name(f"{path.name}.tmp"), path.with_name(f"{path.name}.old")
    with output_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in names:
                    _flush(Path(folder, name))
                flush_directory(Path(folder))
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
                path.rename(old)
            temporary.rename(path)
            flush_directory(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            if old.exists() and not path.exists():
                old.rename(path)
            raise


def _flush(path: Path) -> None:
    """Wait until the content of a file is on the disk; a full disk or a lost share raises here."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk, where the system can do that."""
    with suppress(OSError):  # not on Windows, nor on some network file systems
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write readable JSON, keys in the order given."""
    with replacing(path) as temporary:
        # Names of files can hold bytes that are no text; they are written as JSON's own escapes.
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None if there is no such file. Raises InputError: the file holds something else."""
    if not path.exists():
        return None
    try:
        values = json.loads(read_bytes(path, JSON_BYTES))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}); run again with `overwrite=True`") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a JSON object but {type(values).__name__}; run again with `overwrite=True`")
    return values


@contextmanager
def binary_stream(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for writing, compressed if its name ends in ``.gz`` (or ``.gz.tmp``, while it is unfinished).

    The gzip header holds neither a name nor a time, so the same cells give the same bytes.
    """
    with path.open("wb") as raw:
        if not path.name.lower().removesuffix(".tmp").endswith(".gz"):
            yield raw
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=GZIP_LEVEL, mtime=0) as packed:
            yield cast(IO[bytes], packed)
