"""Output folder of a run: request, steps, status and lock; resumed, overwritten and finished in one way.

A ``Layout`` names the files that a command makes. One of them is the record, a JSON file: the request (settings and
inputs that decide the result, compared key by key), the steps that are done, and ``status``, written last.

    SET = Layout("spatial.json", outputs=("steps/*.parquet", "steps/", "patches-*.arrow"), noun="set")
    folder = RunFolder(out, SET, {"section": stamp(bundle)})
    folder.check(resume=resume, overwrite=overwrite)  # where work precedes opening: refuse now; touches nothing
    with folder.open(resume=resume, overwrite=overwrite):  # locked, and without leftovers of a killed process
        if not folder.is_finished:
            folder.begin()
            step = folder.step("qc", {"min_counts": 10}, outputs=("steps/quality.parquet",), after=("read",))
            if not step.is_done:  # never run, other settings, a step before it has run again, or its file is gone
                with step as facts:  # on record when the block ends without an exception
                    write_table(quality, out / "steps/quality.parquet")
                    facts["passed"] = len(quality)
            folder.finish(cells=n)

Whatever ends the block early leaves a record with status ``failed`` or ``interrupted``, from which ``resume`` goes on,
or nothing after ``discard``. Only files that match the layout are ever removed, and only from a folder with a record.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from celldetr.errors import InputError
from celldetr.io.files import ZARR_FILE, flush_directory, output_errors, read_json, write_json
from celldetr.io.lock import RunLock

FINISHED = ("complete", "partial")  # values of ``status``; partial: without what could not be read
LEFTOVERS = (".tmp", ".*.tmp")  # what ``io.files.replacing`` adds to a name


@dataclass(frozen=True)
class Layout:
    """The files that a command makes in its folder, as glob patterns; a folder (``steps/``) stands after its files."""

    record: str  # name of the record
    outputs: tuple[str, ...] = ()  # all files of the run, and of commands that use them: ``overwrite`` removes these
    working: tuple[str, ...] = ()  # files that are needed until the run is finished
    results: tuple[str, ...] = ()  # names of files without which a run is not finished, whatever the record says
    noun: str = "run"  # for messages: ``run``, ``set``
    shared: bool = False  # whether a run may begin in a folder that holds other files
    remedy: str = "pass `overwrite=True` to replace it"  # for the message where a run of another request is there


class RunFolder:
    """An output folder, made when it is opened.

    Args:
        path, layout: of the folder.
        request: JSON-able; all that decides the result. It goes into the record, key by key.
        ignore: keys of it (``options.batch_size``) that may differ when a run is resumed.

    Attributes:
        record: content of the record; empty until the folder is opened, and if there was none.
    """

    def __init__(
        self, path: Path, layout: Layout, request: Mapping[str, Any] | None = None, ignore: Sequence[str] = ()
    ):
        self.path, self.layout = path, layout
        self.request: dict[str, Any] = json.loads(json.dumps(request or {}))
        self.record: dict[str, Any] = {}
        self._ignore = tuple(f"{key}:" for key in ignore)
        self._begun = False
        self._made = False  # whether the folder is ours, to be removed if nothing is in it at the end

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do, by the record and the files that must be there."""
        there = all((self.path / name).exists() for name in self.layout.results)
        return self.record.get("status") in FINISHED and there

    def check(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Read the record of a run to be resumed; touches nothing.

        Raises:
            InputError: the folder holds a run and neither ``resume`` nor ``overwrite`` was asked for, or a run of
                another request than is to be resumed; it holds other files; it is a file; both were asked for.
        """
        check_modes(resume, overwrite)
        path, layout, self.record = self.path, self.layout, {}
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file; name a folder for the {layout.noun}")
        recorded = (path / layout.record).is_file()
        if not (recorded or layout.shared) and path.exists():
            leftovers = set(self._find((layout.record, *layout.outputs, *layout.working), LEFTOVERS))
            if any(entry not in leftovers and not entry.name.startswith(".") for entry in path.iterdir()):
                raise InputError(
                    f"{path}: holds other files than those of the {layout.noun} (there is no {layout.record}),"
                    " which are not touched; name another folder"
                )
        if overwrite or not self._holds_run():
            return
        self.record = read_json(path / layout.record) or {}
        if not resume:
            kind, how = ("a finished", "keep") if self.is_finished else ("an unfinished", "continue")
            raise InputError(
                f"{path}: holds {kind} {layout.noun}; pass `overwrite=True` to replace it, or `resume=True` to {how} it"
            )
        if not recorded:
            raise InputError(f"{path}: cannot be resumed, it has no {layout.record}; {layout.remedy}")
        if wrong := self.changes(self.record):
            what = f"the {layout.noun} there differs ({'; '.join(wrong)})"
            raise InputError(f"{path}: cannot be resumed, {what}; {layout.remedy}")

    def _holds_run(self) -> bool:
        layout = self.layout
        return (self.path / layout.record).is_file() or any(self._find((*layout.results, *layout.working)))

    def changes(self, record: Mapping[str, Any]) -> list[str]:
        """How the request of a record differs from this one, in words."""
        texts = differences({key: record.get(key) for key in self.request}, self.request)
        return [text for text in texts if not text.startswith(self._ignore)]

    @contextmanager
    def open(self, *, resume: bool = False, overwrite: bool = False) -> Iterator[Self]:
        """Lock the folder, made if needed, and remove leftovers, or with ``overwrite`` the run; raises as ``check``."""
        self.check(resume=resume, overwrite=overwrite)  # before the folder is made
        self._made = not self.path.exists()
        with output_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            flush_directory(self.path.parent)
        try:
            with RunLock(self.path):  # another run may have come first
                self.check(resume=resume, overwrite=overwrite)
                with output_errors(self.path):
                    self._clean(overwrite)
                try:
                    yield self
                except BaseException as error:
                    self._stop("failed" if isinstance(error, Exception) else "interrupted", error)
                    raise
                self._stop("incomplete")
        finally:
            if self._made:
                with suppress(OSError):
                    self.path.rmdir()  # succeeds if nothing was left in it

    def begin(self, **values: Any) -> None:
        """Put the request and ``values`` on record, beside what is there of a run that is resumed."""
        self.record.pop("error", None)
        self.record = {"status": None, **self.record, **self.request, **values} | {"status": "running"}
        self.save()
        self._begun = True

    def save(self) -> None:
        """Write the record."""
        write_json(self.path / self.layout.record, self.record)

    def finish(self, status: str = "complete", **values: Any) -> None:
        """Put on record that the run is finished, then remove the working files."""
        self.record |= {"status": status, **self.request, **values}
        self.save()
        self._begun = False
        self._remove(self._find(self.layout.working))

    def discard(self) -> None:
        """Remove results, working files and record of a run that is not worth resuming."""
        self._begun, self._made = False, True
        self._remove(self._find((*self.layout.results, *self.layout.working), ("", *LEFTOVERS)))
        self._remove(self._find((self.layout.record,), (*LEFTOVERS, "")))  # last: it says whose the rest is

    def _stop(self, status: str, error: BaseException | None = None) -> None:
        """Put on record how a run ends that is not finished; must not hide the error that ends it."""
        if self._begun:
            self._begun = False
            self.record |= {"status": status} | ({"error": str(error) or type(error).__name__} if error else {})
            with suppress(OSError, InputError):
                self.save()

    def _clean(self, overwrite: bool) -> None:
        """Remove what a killed process left unfinished, the working files of a finished run, or all of a run."""
        layout = self.layout
        if not self._holds_run():
            return  # what is there is the user's
        if overwrite:
            self._remove(self._find(layout.outputs, ("", *LEFTOVERS, ".old")))
            self.discard()
            flush_directory(self.path)
        else:
            self._remove(self._find((layout.record, *layout.outputs, *layout.working), LEFTOVERS))
            if self.is_finished:
                self._remove(self._find(layout.working))

    def _find(self, patterns: Iterable[str], endings: Iterable[str] = ("",)) -> Iterator[Path]:
        for pattern in patterns:
            for ending in endings:
                slash = "/" * pattern.endswith("/")  # which only folders match; without, only those that are stores
                for path in self.path.glob(pattern.removesuffix("/") + ending + slash):
                    if slash or not path.is_dir() or _is_store(path):
                        yield path

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if not path.is_dir():
                path.unlink(missing_ok=True)
            elif _is_store(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.rmdir()  # only if nothing of others is in it

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        """Steps on record, by name: ``fingerprint``, ``settings``, ``after``, ``facts``, ``seconds``."""
        steps: dict[str, dict[str, Any]] = self.record.setdefault("steps", {})
        return steps

    def step(
        self, name: str, settings: Mapping[str, Any], outputs: Sequence[str] = (), after: Sequence[str] = ()
    ) -> Step:
        """A step of the run, to be run if it is not done.

        Args:
            name: of the step.
            settings: JSON-able; all that decides its result beside the steps before it.
            outputs: names of its files.
            after: names of the steps whose results it reads.

        Raises:
            InputError: a step in ``after`` was not run, or those before it have been run again since.
        """
        for other in after:
            if other not in self.steps or self.is_stale(other):
                what = "is out of date" if other in self.steps else "was not run yet"
                raise InputError(f"{self.path}: step {other!r} {what}; run it first")
        step = Step(self, name, json.loads(json.dumps(settings)), tuple(after))
        step.is_done = self.steps.get(name, {}).get("fingerprint") == step.fingerprint and all(
            (self.path / output).exists() for output in outputs
        )
        step.is_begun = self.record.get("unfinished") == [name, step.fingerprint]
        step.facts = self.steps[name]["facts"] if step.is_done else {}
        return step

    def is_stale(self, name: str) -> bool:
        """Whether a step on record read results of steps that have been run again, with other settings, since."""
        entry = self.steps[name]
        return Step(self, name, entry["settings"], tuple(entry["after"])).fingerprint != entry["fingerprint"]


@dataclass
class Step:
    """A step of a run (``RunFolder.step``); as a context, the running of it, which gives the facts to be filled in."""

    folder: RunFolder
    name: str
    settings: dict[str, Any]
    after: tuple[str, ...]
    is_done: bool = False  # whether its result is there and up to date
    is_begun: bool = False  # whether an interrupted run has begun it with the same settings and steps before it
    facts: dict[str, Any] = field(default_factory=dict)  # JSON-able, about its result

    @property
    def fingerprint(self) -> str:
        """Of the settings, and of the steps before as they are on record."""
        before = [self.folder.steps.get(other, {}).get("fingerprint") for other in self.after]
        text = json.dumps([self.name, self.settings, before], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __enter__(self) -> dict[str, Any]:
        self.folder.steps.pop(self.name, None)  # its files are being replaced: they must not pass for done
        self.folder.record["unfinished"] = [self.name, self.fingerprint]
        self.folder.save()
        self._start = time.monotonic()
        self.facts = {}
        return self.facts

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            seconds = round(time.monotonic() - self._start, 3)
            entry = {"fingerprint": self.fingerprint, "settings": self.settings, "after": list(self.after)}
            self.folder.steps[self.name] = entry | {"facts": self.facts, "seconds": seconds}
            del self.folder.record["unfinished"]
            self.folder.save()
            self.is_done = True


def _is_store(path: Path) -> bool:
    """Whether a folder is removed with all that is in it: a Zarr store, or one that was not finished."""
    return (path / ZARR_FILE).is_file() or path.name.endswith((".tmp", ".old"))


def check_modes(resume: bool, overwrite: bool) -> None:
    """Refuse to continue what is there and to replace it at once."""
    if resume and overwrite:
        raise InputError("`resume=True` and `overwrite=True` contradict each other; pass one of them")


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """What differs between settings, key by key, e.g. ``options.tile: 512, now 256``; a missing one is None."""
    texts = []
    for key in {**now, **earlier}:
        old, new = earlier.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            texts += differences(old, new, f"{within}{key}.")
        elif old != new:
            texts.append(f"{within}{key}: {_short(old)}, now {_short(new)}")
    return texts


def _short(value: Any) -> str:
    """A value for a message; of a long one (the outline of a ROI) its beginning and a hash."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:40]}... (hash {hashlib.sha256(text.encode()).hexdigest()[:8]})"
