"""Hooks of the documentation site: pages that do not lie in docs/, and the links to them.

Markdown files link to files of the project by relative paths, which a forge follows. The site gets a page for each of
those files, and the report of each recorded study in place of its folder.
"""

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import cfamc_ray
from cfamc_ray import api
from cfamc_ray.report.contents import make_report
from cfamc_ray.report.page import render

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<=\]\()(?!\w+:)[^)#\s]+")
"""Path of a relative link in Markdown."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the Python reference, the overview, and a page for everything outside docs/ that is linked to."""
    files.append(File.generated(config, "reference.md", content=_reference()))
    to_read = ["README.md", "LOG.md", "CHANGELOG.md", *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    read = set[str]()
    while to_read:
        path = to_read.pop()
        if path in read or not (ROOT / path).exists():
            continue
        read.add(path)
        if path.endswith(".md"):
            to_read += [_linked(path, link) for link in LINK.findall((ROOT / path).read_text(encoding="utf-8"))]
        if _uri(path) not in files.src_uris:
            files.append(File.generated(config, _uri(path), content=_content(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page of docs/ to the pages of the site."""
    return _with_links(markdown, f"docs/{page.file.src_uri}") if page.file.generated_by is None else markdown


def _uri(path: str) -> str:
    """Where the site keeps a file or folder of the project."""
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/").replace(".ipynb", ".md")
    if (ROOT / path / "study.yaml").is_file():
        return f"reports/{Path(path).name}.html"
    return f"source/{path}" if path.endswith(".md") else f"source/{path}.md"


def _linked(path: str, link: str) -> str:
    """The file or folder of the project to which a link in a file leads."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def _with_links(text: str, path: str) -> str:
    """The Markdown of a file with links to the pages of the site; those that lead nowhere stay."""

    def rewritten(link: re.Match[str]) -> str:
        target = _linked(path, link[0])
        here = posixpath.dirname(_uri(path))
        return posixpath.relpath(_uri(target), here or ".") if (ROOT / target).exists() else link[0]

    return LINK.sub(rewritten, text)


def _content(path: str) -> str:
    """The page of a file or folder that does not lie in docs/, or of the notebook."""
    file = ROOT / path
    if (file / "study.yaml").is_file():
        return render(make_report(file))
    if file.is_dir():
        listing = "\n".join(sorted(entry.name + "/" * entry.is_dir() for entry in file.iterdir()))
        return f"# `{path}`\n\n```\n{listing}\n```\n"
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return _with_links(text, path)
    return _notebook(text) if file.suffix == ".ipynb" else f"# `{path}`\n\n````{file.suffix[1:]}\n{text}\n````\n"


def _reference() -> str:
    """Documentation of each public name from its docstrings: functions, classes, then the version.

    The functions `train` and `evaluate` have modules of the same names beside them, so they are taken from `api`.
    """
    public = sorted({*cfamc_ray.__all__, *api.__all__}, key=lambda name: (name[0] == "_", name[0].isupper(), name))
    entries = ["# Python reference"]
    for name in public:
        shown = f"cfamc_ray.{name}" if name in cfamc_ray.__all__ else f"cfamc_ray.api.{name}"
        home = f"cfamc_ray.api.{name}" if name in api.__all__ else shown
        anchor = "" if home == shown else f"[](){{#{shown}}}\n\n"
        entries.append(f"{anchor}::: {home}\n    options: {{heading: {shown}, toc_label: {name}}}")
    return "\n\n".join(entries)


def _notebook(text: str) -> str:
    """A notebook without outputs as Markdown."""
    cells = json.loads(text)["cells"]
    sources = [("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells]
    return "\n\n".join(f"```python\n{source}\n```" if code else source for source, code in sources)
