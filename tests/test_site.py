"""The built site: whole, without requests to other hosts, and operated in a browser.

`make test` builds the site first (`jupyter-book build . --all -W -n`, so any warning has failed
there). Where nothing is built these tests are skipped; under CI (CI=true) a skip is a failure.
"""

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from book._ext import outside

ROOT = Path(__file__).parents[1]
SITE = ROOT / "_build" / "html"
PAGES = sorted(p for p in SITE.rglob("*.html") if "_static" not in p.parts)

pytestmark = pytest.mark.site


def unless(condition: object, why: str) -> None:
    """Skip where a condition does not hold; fail there under CI."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{why}, and CI may not skip")
    pytest.skip(why)


@pytest.fixture(autouse=True)
def built() -> None:
    unless(PAGES, "no site is built (make book)")


@pytest.fixture
def browser() -> str:
    found = os.environ.get("BROWSER") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    unless(found, "no Chromium")
    unless(shutil.which("node"), "no node")
    unless((ROOT / "tools/node_modules/playwright-core").exists(), "no playwright-core (npm)")
    return str(found)


def listed(entry: dict | list) -> list[str]:
    """Every page that _toc.yml names."""
    if isinstance(entry, list):
        return [page for item in entry for page in listed(item)]
    own = [entry[key] for key in ("root", "file") if key in entry]
    return own + [p for k in ("parts", "chapters", "sections") for p in listed(entry.get(k, []))]


class Page(HTMLParser):
    """The ids, links, pictures and scripts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.unnamed: list[str] = []
        self.feed(path.read_text("utf8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids.add(values.get("id") or "")
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))
        source = str(values.get("src"))
        # the theme's logo stands beside the name of the book, so it needs no text of its own
        if tag == "img" and not (values.get("alt") or "").strip() and "mark.svg" not in source:
            self.unnamed.append(source[:80])


def test_every_listed_page_is_there():
    names = listed(yaml.safe_load((ROOT / "_toc.yml").read_text("utf8")))
    assert names
    assert not [name for name in names if not (SITE / f"{name}.html").exists()]


def test_every_page_of_the_book_is_listed():
    names = set(listed(yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))))
    written = {
        str(path.relative_to(ROOT).with_suffix(""))
        for path in [*ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.ipynb")]
    }
    assert written == names


def test_site_is_not_older_than_its_sources():
    sources = [
        *ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("book/_static/*.*"),
        ROOT / "_toc.yml", ROOT / "_config.yml", ROOT / "book/_ext/offline_book.py",
    ]  # fmt: skip
    newest = max(sources, key=lambda path: path.stat().st_mtime)
    assert newest.stat().st_mtime <= (SITE / "search.html").stat().st_mtime, (
        f"{newest.relative_to(ROOT)} changed after the site was built; run make book"
    )


def test_no_page_fetches_from_another_host():
    assert outside.outside_requests(SITE) == {}


def test_links_inside_the_site_lead_somewhere():
    pages = {path: Page(path) for path in PAGES}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:|//", link):
                continue
            name, _, fragment = unquote(link).partition("#")
            target = (path.parent / name).resolve() if name else path
            name_ok = target in pages or target.exists()
            if not name_ok or (fragment and target in pages and fragment not in pages[target].ids):
                broken.append((str(path.relative_to(SITE)), link))
    assert not broken


def test_every_picture_has_alternative_text():
    assert not {p.name: Page(p).unnamed for p in PAGES if Page(p).unnamed}


def test_pages_are_small():
    large = {p.name: p.stat().st_size for p in PAGES if p.stat().st_size > 1.5e6}
    assert not large, "a page may hold 1.5 MB"


def test_chapters_open_in_colab():
    for path in (SITE / "notebooks").glob("*.html"):
        target = f"/mmlib-book/blob/main/notebooks/{path.stem}.ipynb"
        assert re.search(rf"colab\.research\.google\.com/github/[\w-]+{target}", path.read_text())


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://host/a.js"></script>',
        '<link rel="preload stylesheet" href="//host/a.css">',
        '<img srcset="a.png 1x, https://host/b.png 2x">',
        "<style>@import url(https://host/a.css);</style>",
        '<p style="background: url(https://host/a.png)">',
        '<svg><use xlink:href="https://host/a.svg#b"/></svg>',
    ],
)
def test_a_fetched_address_is_found(html):
    assert len(outside.html_addresses(html)) == 1


def test_a_link_is_no_fetched_address():
    html = '<a href="https://host/">x</a><link rel="canonical" href="//host/"><img src="a.png">'
    assert outside.html_addresses(html) == []


def run_node(script: str, browser: str) -> None:
    done = subprocess.run(
        ["node", f"tools/{script}", str(SITE)],
        cwd=ROOT, env={**os.environ, "BROWSER": browser}, capture_output=True, text=True,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.browser
def test_pages_work_in_a_browser_without_a_network(browser):
    """Mathematics set, figures operated, search, phone; over http and from files."""
    run_node("probe.mjs", browser)


@pytest.mark.browser
def test_pages_are_accessible(browser):
    """axe-core finds nothing, wide and on a phone, in light and in dark."""
    run_node("axe.mjs", browser)
