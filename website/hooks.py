"""MkDocs hooks: README.md becomes the front page, and whatever a page links to is in the site.

README.md, docs/*.md                             pages
other Markdown of the repository that is linked  pages too, under their own path
src/bottlenet/**.py that are linked              their part of the reference, made from docstrings by reference.py
other files that are linked                      copied to files/
on_post_build                                    nothing in the site is loaded from elsewhere

A link to nothing ends the build, here or by `strict`.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import reference

ROOT = Path(__file__).parent.parent
FRONT = "README.md"
LINK = re.compile(r"(!?\[[^\]\[]*(?:\[[^\]]*\][^\]\[]*)*\]\()([^)\s]+)(\))")
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.DOTALL | re.MULTILINE)

# Pages in their order; what is not here comes after them, so that a new page needs no entry.
ORDER = {
    "Start": ["index.md", "tutorial.md", "examples/README.md", "figures.md"],
    "Use": ["device.md", "operating.md", "page.md", "planning.md", "privacy.md"],
    "Make": ["training.md", "networks.md", "sweep.md"],
    "How it works": ["wire.md", "paper-to-code.md"],
}
LAST = ["CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the front page, all files that are linked, and the reference; then make the navigation."""
    repository = {FRONT: "index.md"}
    pages = {file.src_uri: ROOT / "docs" / file.src_uri for file in files.documentation_pages()}
    waiting = [FRONT, *(f"docs/{uri}" for uri in pages)]
    while waiting:
        source = waiting.pop()
        for target in linked(source):
            if target not in repository and not target.startswith("docs/") and reference.part_of(target) is None:
                repository[target] = target if target.endswith(".md") else f"files/{target}"
                if target.endswith(".md"):
                    waiting.append(target)
    for target, uri in repository.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
    parts = reference.pages(ROOT / "src" / "bottlenet")
    for uri, content in parts.items():
        files.append(File.generated(config, uri, content=content))
    config.nav = navigation([*pages, *(uri for uri in repository.values() if uri.endswith(".md"))], list(parts))
    for file in files:  # what the navigation lacks is no page that was forgotten
        if file.src_uri.startswith("files/"):
            file.inclusion = InclusionLevel.NOT_IN_NAV
    return files


def navigation(pages: list[str], parts: list[str]) -> list[dict[str, list[str]]]:
    """Put the pages in order; their titles are their own."""
    known = [uri for uris in ORDER.values() for uri in uris]
    nav = [{name: [uri for uri in uris if uri in pages]} for name, uris in ORDER.items()]
    others = sorted(uri for uri in pages if uri not in (*known, *LAST))
    if others:
        nav.append({"More": others})
    nav.append({"Reference": parts})
    nav.append({"Project": [uri for uri in LAST if uri in pages]})
    return nav


def linked(source: str) -> Iterator[str]:
    """Find the files of the repository that a page links to. PluginError: one that is not there."""
    text = CODE.sub("", (ROOT / source).read_text(encoding="utf-8"))
    for match in LINK.finditer(text):
        target = resolved(source, match[2])
        if target is not None:
            yield target


def resolved(source: str, link: str) -> str | None:
    """Resolve a link to a file of the repository; None if it leads elsewhere. PluginError: it leads to nothing."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or not parts.path:
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(parts.path)))
    path = ROOT / target
    if target.startswith("..") or not path.exists():
        raise PluginError(f"{source} links to {link}, which is not there")
    if path.is_dir():  # its description, or that of what it is in
        near = [each for each in (target, posixpath.dirname(target)) if each]
        found = next((each for each in near if (ROOT / each / FRONT).is_file()), None)
        if found is None:
            raise PluginError(f"{source} links to the folder {link}, which has no {FRONT}")
        return f"{found}/{FRONT}"
    return target


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    uri = page.file.src_uri
    if uri.startswith("reference/"):
        return markdown
    here = ROOT / "docs" / uri
    source = FRONT if uri == "index.md" else f"docs/{uri}" if here.is_file() else uri

    def changed(match: re.Match[str]) -> str:
        target = resolved(source, match[2])
        if target is None:
            return match[0]
        fragment = urlsplit(match[2]).fragment
        there, anchor = place(target)
        relative = posixpath.relpath(there, posixpath.dirname(uri) or ".")
        return match[1] + relative + (f"#{fragment or anchor}" if fragment or anchor else "") + match[3]

    kept = [match.span() for match in CODE.finditer(markdown)]

    def outside_code(match: re.Match[str]) -> str:
        return match[0] if any(start <= match.start() < end for start, end in kept) else changed(match)

    return LINK.sub(outside_code, markdown)


def place(target: str) -> tuple[str, str]:
    """Find the page or file of the site, and the anchor, for a file of the repository."""
    if target == FRONT:
        return "index.md", ""
    if target.startswith("docs/"):
        return target.removeprefix("docs/"), ""
    part = reference.part_of(target)
    if part is not None:
        return part
    return (target if target.endswith(".md") else f"files/{target}"), ""


class Loaded(HTMLParser):
    """Addresses that a page loads by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        relation = values.get("rel") or ""
        loads = values.get("src") or (values.get("href") if tag == "link" and "canonical" not in relation else None)
        if loads:
            self.found.append(loads)


def on_post_build(config: MkDocsConfig) -> None:
    """Raise PluginError where a page loads something from elsewhere, or that is not there."""
    site = Path(config.site_dir)
    for file in sorted(site.rglob("*.html")):
        for link in Loaded(file.read_text(encoding="utf-8")).found:
            parts = urlsplit(link)
            if parts.scheme == "data" or file.name == "404.html":  # which has absolute links
                continue
            if parts.scheme or parts.netloc:
                raise PluginError(f"{file.relative_to(site)} loads {link} from elsewhere")
            if not (file.parent / unquote(parts.path)).exists():
                raise PluginError(f"{file.relative_to(site)} loads {link}, which is not there")
