"""The documentation's site: it builds without a warning, its links lead somewhere, and it needs no network."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import cfamc_ray

ROOT = Path(__file__).parent.parent
LOADING = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
"""Elements that load a file when a page is opened, and the attribute that names it."""
ELSEWHERE = re.compile(r"(?:\w+:)?//")
OPENED = ("index", "tutorial", "keys", "reference", "results", "numbers", "glossary", "gallery", "notebook")
pytestmark = pytest.mark.slow


class Parsed(HTMLParser):
    """The anchors of a page, where its links lead, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors, self.links, self.loaded = {""}, set[str](), set[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif given.get(LOADING.get(tag, "")):
            self.loaded.add(given[LOADING[tag]])


def build(target: Path) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(target)]
    return subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("docs") / "site"
    built = build(target)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr + built.stdout
    return target


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Parsed]:
    """All but the page for what a server does not find, whose links begin at the server's root."""
    return {path.resolve(): Parsed(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_links_and_anchors_resolve(pages: dict[Path, Parsed]) -> None:
    broken = []
    for page, parsed in pages.items():
        for link in parsed.links | parsed.loaded:
            path, _, anchor = link.partition("#")
            if ELSEWHERE.match(link) or link.startswith(("data:", "mailto:")):
                continue
            target = (page.parent / unquote(path)).resolve() if path else page
            if not target.is_file() or (target in pages and unquote(anchor) not in pages[target].anchors):
                broken.append(f"{page.name}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_a_network(site: Path, pages: dict[Path, Parsed]) -> None:
    assert [link for parsed in pages.values() for link in parsed.loaded if ELSEWHERE.match(link)] == []
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert [found for style in styles for found in re.findall(r"(?:url\(|@import)\s*[\"']?(?:\w+:)?//\S*", style)] == []


def test_each_public_name_is_documented(site: Path, pages: dict[Path, Parsed]) -> None:
    anchors = pages[(site / "reference.html").resolve()].anchors
    assert {f"cfamc_ray.{name}" for name in cfamc_ray.__all__} <= anchors
    assert {f"cfamc_ray.api.Study.{name}" for name in ("folder", "config", "front", "resume")} <= anchors


def test_the_gallery_has_a_report_of_each_recorded_study(site: Path, pages: dict[Path, Parsed]) -> None:
    studies = {path.parent.name for path in (ROOT / "benchmarks" / "results" / "studies").glob("*/study.yaml")}
    assert {f"reports/{name}.html" for name in studies} <= pages[(site / "gallery.html").resolve()].links


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


FOCUSED = """() => {
    const element = document.activeElement, box = element.getBoundingClientRect();
    const shown = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    return shown && element.contains(shown) ? element.href || "" : "";
}"""
"""Where the focused link leads; empty if it cannot be seen."""


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser(browser: Any, address: str, width: int, scheme: str) -> None:
    """Pages do not scroll sideways, and the keyboard alone reaches a page and the search."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    fetched, problems = list[str](), list[str]()
    page.on("request", lambda request: fetched.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    for name in OPENED:
        page.goto(f"{address}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") == width, name
        assert page.evaluate("document.body.dataset.mdColorScheme") == {"light": "default", "dark": "slate"}[scheme]
    for _ in range(60):
        page.keyboard.press("Tab")
        page.wait_for_timeout(300)  # the drawer of a narrow screen slides in
        if page.evaluate(FOCUSED).endswith("/numbers.html"):
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/numbers.html")
    page.keyboard.press("/")
    page.keyboard.type("winner")
    page.locator(".md-search-result__link[href*='numbers.html']").first.wait_for()
    assert [url for url in fetched if not url.startswith((address, "data:", "blob:"))] == []
    assert problems == []
    context.close()
