"""The API in the kernel of a notebook, and the notebook in docs as a reader executes it."""

import asyncio
import re
import time
from pathlib import Path
from threading import Thread
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.util import ensure_async

from cfamc_ray import open_study

ROOT = Path(__file__).parent.parent
NOTEBOOK = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
INTERRUPTED = """
import cfamc_ray
space = {
    "name": "interrupted",
    "budget": {"trials": 1000},
    "trial": {"data": {"name": "digits", "pretrain_images": 100, "probe_images": 100, "validation_images": 50}},
}
cfamc_ray.run_study(space, verbose=True)
"""


@pytest.fixture(autouse=True)
def _this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is what the kernel imports."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def client_of(notebook: Any, folder: Path, **options: Any) -> NotebookClient:
    """A kernel whose working directory is the folder."""
    return NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}}, **options)


def execute(client: NotebookClient) -> list[Any]:
    """The outputs of each cell of code."""
    client.execute()
    return [cell.outputs for cell in client.nb.cells if cell.cell_type == "code"]


def printed(outputs: list[Any]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_it_is_kept_without_outputs() -> None:
    nbformat.validate(NOTEBOOK)
    code = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
    assert len(code) >= 8
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.long
def test_it_runs_from_the_first_cell_to_the_last(tmp_path: Path) -> None:
    _, _, search, front, trials, longer, evaluation, encoder = execute(client_of(NOTEBOOK, tmp_path))
    lines = printed(search).splitlines()
    assert len(lines) < 20, "a line for each trial, not for each second"
    assert not any("\x1b" in line for line in lines)
    assert [output.output_type for output in search] == ["stream"] * len(search), "Tune shows nothing of its own"
    (shown,) = front
    assert re.search(r'<img alt="the front" .*<table', shown.data["text/html"], re.DOTALL)
    for (output,), column in ((trials, "status"), (longer, "crop_passes"), (evaluation, "attack")):
        assert column in output.data["text/html"]
    assert list(open_study(tmp_path / "runs" / "digits").trials["status"]) == ["finished"] * 5
    (accuracy,) = re.findall(r"^([\d.]+)% of \d+ test images are", printed(encoder), re.MULTILINE)
    assert float(accuracy) > 50, "ten classes"


@pytest.mark.slow
def test_the_stop_button_interrupts_a_study_that_can_be_resumed(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(INTERRUPTED)])
    client = client_of(notebook, tmp_path, timeout=300, interrupt_on_timeout=True, allow_errors=True)

    async def interrupt() -> None:
        assert client.km is not None
        await ensure_async(client.km.interrupt_kernel())

    def press_stop() -> None:
        """Once a trial is being trained; if none is, the client interrupts the cell at last."""
        patience = time.monotonic() + 300
        while not any(tmp_path.glob("runs/interrupted/trial_*/trial.json")):
            if time.monotonic() > patience:
                return
            time.sleep(0.1)
        asyncio.run(interrupt())

    Thread(target=press_stop, daemon=True).start()
    (outputs,) = execute(client)
    assert "Ray is starting" in printed(outputs)
    assert outputs[-1].ename == "KeyboardInterrupt"
    assert open_study(tmp_path / "runs" / "interrupted").config.budget.trials == 1000
