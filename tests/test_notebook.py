"""The API in the kernel of a notebook, and the notebook in docs as a reader executes it."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

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


def execute(notebook: Any, folder: Path, **options: Any) -> list[Any]:
    """Run it in a kernel whose working directory is the folder; the outputs of each cell of code."""
    client = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}}, **options)
    client.execute()
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def printed(outputs: list[Any]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_it_is_kept_without_outputs() -> None:
    nbformat.validate(NOTEBOOK)
    code = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
    assert len(code) >= 8
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.long
def test_it_runs_from_the_first_cell_to_the_last(tmp_path: Path) -> None:
    _, _, search, front, trials, longer, evaluation, encoder = execute(NOTEBOOK, tmp_path)
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
    (outputs,) = execute(notebook, tmp_path, timeout=30, interrupt_on_timeout=True, allow_errors=True)
    assert "Ray is starting" in printed(outputs)
    assert outputs[-1].ename == "KeyboardInterrupt"
    assert open_study(tmp_path / "runs" / "interrupted").config.budget.trials == 1000
