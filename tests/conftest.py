"""What all tests share: few threads, no network, and real data only where the environment names it."""

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("cfamc_ray", deadline=None)  # a loaded machine is not a failure
settings.load_profile("cfamc_ray")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a script that starts the tests in its background ignores it

GOLDEN = Path(__file__).parent / "golden"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, so that neither of the two processes is left with them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def cifar10() -> Path:
    """The real cifar10.npz."""
    folder = os.environ.get("CFAMC_DATA")
    path = Path(folder) / "cifar10.npz" if folder else None
    if path is None or not path.is_file():
        pytest.skip("real images: the folder that CFAMC_DATA names holds no cifar10.npz")
    return path
