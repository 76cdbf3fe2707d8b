"""What all tests share: few threads, no network, and real data only where the environment names it."""

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

settings.register_profile("cfamc_ray", deadline=None)  # a loaded machine is not a failure
settings.load_profile("cfamc_ray")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a script that starts the tests in its background ignores it

GOLDEN = Path(__file__).parent / "golden"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def pytest_report_header() -> list[str]:
    """What of this machine decides which tests run."""
    return [] if torch.cuda.is_available() else ["no GPU here: tests with the mark gpu are deselected"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those for a GPU only where there is one; slow ones first, so that no process is left with them at the end."""
    if not torch.cuda.is_available():
        needing = [item for item in items if item.get_closest_marker("gpu")]
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=needing)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Python's garbage collector need not walk through the modules and thousands of tests again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are computed; to draw them takes seconds."""
    for module in ("front", "effects", "compare"):
        monkeypatch.setattr(f"cfamc_ray.cli.{module}.draw", lambda chart: None)
        monkeypatch.setattr(f"cfamc_ray.cli.{module}.save_figure", lambda figure, path: None)
    monkeypatch.setattr("cfamc_ray.report.page.save_chart", lambda chart, folder: None)
    monkeypatch.setattr("cfamc_ray.figures.static.save_chart", lambda chart, folder: None)
    monkeypatch.setattr("cfamc_ray.figures.interactive.embed", lambda chart: [])
    monkeypatch.setattr("cfamc_ray.figures.interactive.script", lambda: "")


@pytest.fixture
def few_points_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan checks 2 points of its space; to check all of its sample takes a third of each command's time."""
    monkeypatch.setattr("cfamc_ray.space.search_space.SAMPLE", 2)


@pytest.fixture
def cifar10() -> Path:
    """The real cifar10.npz."""
    folder = os.environ.get("CFAMC_DATA")
    path = Path(folder) / "cifar10.npz" if folder else None
    if path is None or not path.is_file():
        pytest.skip("real images: the folder that CFAMC_DATA names holds no cifar10.npz")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 (slow to import)

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()
