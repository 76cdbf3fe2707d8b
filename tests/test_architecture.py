"""The table of who may import whom, held against the syntax trees, and what imports without torch or ray."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cfamc_ray"

ALLOWED = {
    "host": set(),
    "gaussian_process": set(),
    "intervals": set(),
    "metrics": set(),
    "config": {"metrics"},
    "data": {"config", "host"},
    "formatting": {"config", "metrics"},
    "method": {"config", "host"},
    "space": {"config"},
    "store": {"config", "formatting", "host", "metrics", "space"},
    "cost": {"config", "data", "method", "store"},
    "front": {"config", "formatting", "gaussian_process", "host", "intervals", "metrics", "space", "store"},
    "terminal": {"config", "formatting", "store"},
    "evaluation": {"config", "cost", "data", "host", "intervals", "method", "store"},
    "scaling": {"config", "cost", "formatting", "metrics", "store"},
    "search": {"config", "cost", "front", "gaussian_process", "host", "metrics", "space", "store"},
    "figures": {"formatting", "front", "host", "metrics", "scaling", "store"},
    "training": {"config", "cost", "data", "evaluation", "host", "method", "metrics", "store"},
    "orchestration": {
        "config",
        "cost",
        "data",
        "evaluation",
        "figures",
        "formatting",
        "front",
        "host",
        "method",
        "metrics",
        "search",
        "space",
        "store",
        "terminal",
        "training",
    },
    "report": {"config", "figures", "formatting", "front", "host", "metrics", "scaling", "store"},
    "lifecycle": {
        "config",
        "cost",
        "data",
        "evaluation",
        "figures",
        "formatting",
        "front",
        "host",
        "method",
        "orchestration",
        "report",
        "scaling",
        "search",
        "space",
        "store",
        "terminal",
        "training",
    },
    "api": {"config", "lifecycle", "store"},
    "cli": {
        "config",
        "cost",
        "figures",
        "formatting",
        "front",
        "host",
        "lifecycle",
        "report",
        "scaling",
        "store",
        "terminal",
    },
    "evaluate": {"api", "cli", "config", "evaluation", "formatting", "lifecycle", "terminal"},
    "scale": {"cli", "config", "cost", "host", "lifecycle", "space", "store"},
    "train": {"api", "cli", "config", "cost", "formatting", "host", "lifecycle", "store"},
    "tune": {"cli", "config", "cost", "formatting", "front", "host", "lifecycle", "metrics", "space", "store"},
}
WITHOUT_RAY = [name for name in ALLOWED if name != "orchestration"]
WITHOUT_TORCH = [
    "api",
    "cli",
    "config",
    "figures",
    "formatting",
    "front",
    "lifecycle",
    "metrics",
    "report",
    "scaling",
    "search",
    "space",
    "store",
]
# Found before all others; None in sys.modules would do for our own imports, but SciPy looks there for torch.
BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(name + " is absent")
sys.meta_path.insert(0, Absent())
"""


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def other_parts(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("cfamc_ray.")} - {part(path)}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_the_design_allows(path: Path) -> None:
    assert other_parts(path) <= ALLOWED[part(path)]


def test_the_design_allows_nothing_that_no_module_needs() -> None:
    needed = {
        name: set[str]().union(*(other_parts(path) for path in modules() if part(path) == name)) for name in ALLOWED
    }
    assert {name: allowed - needed[name] for name, allowed in ALLOWED.items() if allowed - needed[name]} == {}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_orchestration_imports_ray(path: Path) -> None:
    assert part(path) == "orchestration" or not any(name.split(".")[0] == "ray" for name in imports(path))


def dotted(names: list[str]) -> list[str]:
    paths = [path for path in modules() if part(path) in names]
    found = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    analysis = [f"analysis.{path.stem}" for path in (ROOT / "analysis").glob("*.py")]
    return [*found, *analysis]


@pytest.mark.parametrize(
    ("absent", "names"), [(["ray"], WITHOUT_RAY), (["ray", "torch"], WITHOUT_TORCH)], ids=["no ray", "no ray, no torch"]
)
def test_imports_with_packages_absent(absent: list[str], names: list[str]) -> None:
    program = "\n".join([BLOCK.format(absent=absent), *(f"import {name}" for name in dotted(names))])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


LINES, LINES_OF_A_FUNCTION = 300, 60
"""A file is read in one go, and a function fits a screen; docstrings do not count in functions."""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            documented = isinstance(node.body[0], ast.Expr) and ast.get_docstring(node) is not None
            docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if documented else 0  # type: ignore[operator]
            assert node.end_lineno - node.lineno + 1 - docstring <= LINES_OF_A_FUNCTION, node.name  # type: ignore[operator]
