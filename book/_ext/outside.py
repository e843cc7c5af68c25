"""The addresses on other hosts that a browser would fetch by itself when it opens a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

FETCHED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "track": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "input": ("src",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}
FETCHED_RELATIONS = {
    "stylesheet", "preload", "prefetch", "modulepreload", "icon", "preconnect", "dns-prefetch",
    "manifest", "apple-touch-icon",
}  # fmt: skip
OUTSIDE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
CSS_ADDRESS = re.compile(
    r"(?:@import\s+(?:url\()?|url\()\s*['\"]?\s*((?:https?:)?//[^'\")\s]+)", re.IGNORECASE
)
CSS_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


class _AddressFinder(HTMLParser):
    """Collects the addresses on other hosts that a browser would fetch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        for name in FETCHED.get(tag, ()):
            value = values.get(name, "")
            parts = value.split(",") if name == "srcset" else [value]
            self.found += [part.strip() for part in parts if OUTSIDE.match(part)]
        relations = set(values.get("rel", "").lower().split())
        if (
            tag == "link"
            and FETCHED_RELATIONS & relations
            and OUTSIDE.match(values.get("href", ""))
        ):
            self.found.append(values["href"])
        self.found += CSS_ADDRESS.findall(values.get("style", ""))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        if tag == "style":
            self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += css_addresses(data)


def css_addresses(text: str) -> list[str]:
    """The addresses on other hosts that a stylesheet fetches."""
    return CSS_ADDRESS.findall(CSS_COMMENT.sub("", text))


def html_addresses(text: str) -> list[str]:
    """The addresses on other hosts that a page fetches."""
    finder = _AddressFinder()
    finder.feed(text)
    return finder.found


def outside_requests(folder: Path) -> dict[str, list[str]]:
    """File -> addresses on other hosts, for each page and stylesheet below `folder` with any."""
    read = {".html": html_addresses, ".css": css_addresses}
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in read:
            addresses = sorted(set(read[path.suffix](path.read_text("utf8"))))
            if addresses:
                found[str(path.relative_to(folder))] = addresses
    return found
