"""What the site needs beside the pages: tutorials as they ran, and files of the repository that pages link to.

Pages in docs/ link as GitHub does (``../benchmarks/results/x.txt``). A linked file that lies outside of docs/ goes into
the site as ``repository/<its path>``, and so does what a linked Markdown file links to: nothing leads outside. A
notebook becomes a page with its outputs, and stays beside it to be downloaded.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import notebooks
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = "repository/"
ELSEWHERE = re.compile(r"<(?:script|img|iframe)[^>]+src=[\"']?https?:[^>]*>|<link[^>]+stylesheet[^>]+https?:[^>]*>")
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the tutorials, the files of the repository that pages link to, and those that these link to."""
    for path in notebooks.notebooks():
        text, pictures = notebooks.as_page(path.stem, notebooks.executed(path))
        for name, content in {f"{path.stem}.md": text, **pictures}.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    left = [(f"docs/{page.src_uri}", page.content_string) for page in files.documentation_pages()]
    left += [(name, (ROOT / name).read_text(encoding="utf-8")) for name in ("CONTRIBUTING.md", "CHANGELOG.md")]
    for name, _ in left[-2:]:
        files.append(generated(config, name))
    while left:
        name, text = left.pop()
        for path in linked(name, text):
            if path.startswith("docs/") or not (ROOT / path).is_file() or files.get_file_from_path(OUTSIDE + path):
                continue
            files.append(generated(config, path))
            if path.endswith(".md"):
                left.append((path, (ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links from or to files outside of docs/ into those of the site."""
    here = page.file.src_uri
    source = here.removeprefix(OUTSIDE) if here.startswith(OUTSIDE) else f"docs/{here}"

    def there(found: re.Match[str]) -> str:
        if is_address(found[2]):
            return found[0]
        path = resolved(source, found[2])
        if path.endswith(".ipynb") and path != source.removesuffix("md") + "ipynb":
            path = path.removesuffix("ipynb") + "md"
        place = path.removeprefix("docs/") if path.startswith("docs/") else OUTSIDE + path
        return f"{found[1]}{posixpath.relpath(place, posixpath.dirname(here) or '.')}{found[3] or ''}{found[4]}"

    def kept(found: re.Match[str]) -> str:
        return found[0] if (ROOT / resolved(source, found[1])).is_file() else f"({found[1]} was not kept)"

    if here.startswith(OUTSIDE):  # logs of runs, whose pictures are not in the repository
        markdown = re.sub(r"!\[[^]]*\]\(([^):]+)\)", kept, markdown)
    markdown = markdown.replace("```python notest", "```python")  # a word to the tests
    return LINK.sub(there, markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would load a script, a style, a picture or a font from elsewhere."""
    if found := ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_uri}: {found[0]} is loaded from elsewhere; the site works without a network")
    return output


def generated(config: Any, path: str) -> File:
    """A file of the repository as one of the site."""
    return File.generated(config, OUTSIDE + path, abs_src_path=str(ROOT / path))


def linked(name: str, text: str) -> list[str]:
    """Paths, from the root of the repository, that a page links to."""
    return [resolved(name, found[2]) for found in LINK.finditer(text) if not is_address(found[2])]


def resolved(page: str, target: str) -> str:
    """The path, from the root of the repository, of a relative link in a page there."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def is_address(target: str) -> bool:
    """Whether a link leads out of the repository."""
    return re.match(r"\w+:", target) is not None
