"""The API in the kernel of a notebook, and the notebook in docs as a reader executes it."""

import asyncio
import html
import os
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
IMPORTS = """
import sys
from test_terminal import STUDY, show, trial
from cfamc_ray.orchestration.view import StudyView
"""
LIVE = """
with StudyView(STUDY, sys.stdout, detail={detail!r}) as view:
    show(view, trial(0))
    show(view, trial(0, 1))
    show(view, trial(0, 2, status="finished"), trial(1, 1))
"""
"""A study of which the first trial ends and the second runs."""


@pytest.fixture(autouse=True)
def _this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is what the kernel imports."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))


def client_of(notebook: Any, folder: Path, **options: Any) -> NotebookClient:
    """A kernel whose working directory is the folder."""
    return NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}}, **options)


def execute(client: NotebookClient) -> list[Any]:
    """The outputs of each cell of code."""
    client.execute()
    return [cell.outputs for cell in client.nb.cells if cell.cell_type == "code"]


def printed(outputs: list[Any]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def shown(output: Any) -> str:
    """The text of an output that is HTML."""
    return html.unescape(re.sub(r"<[^>]*>", "", output.data["text/html"]))


def test_a_running_study_is_shown_in_one_output_that_changes_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = (IMPORTS, *(LIVE.format(detail=detail) for detail in ("normal", "quiet")))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in codes])
    texts, process = [], NotebookClient.process_message

    def seen(client: NotebookClient, message: Any, *rest: Any) -> Any:
        if message["msg_type"] in ("display_data", "update_display_data"):
            texts.append(shown(nbformat.from_dict(message["content"])))
        return process(client, message, *rest)

    monkeypatch.setattr(NotebookClient, "process_message", seen)
    _, (live,), quiet = execute(client_of(notebook, tmp_path))
    assert quiet == []
    assert live.output_type == "display_data"
    assert shown(live) == texts[-1]
    for text, words in zip(
        texts, ("", "epoch 1 of 2; views 2", "epoch 2 of 2; 1.23k crop passes/s", "1 of 4 done, 1 running"), strict=True
    ):
        assert words in text
    assert re.search(r"front +1 point, hypervolume 0.125 +\S", texts[-1]), "and how it has grown"


def test_it_is_kept_without_outputs() -> None:
    nbformat.validate(NOTEBOOK)
    code = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
    assert len(code) >= 8
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.long
def test_it_runs_from_the_first_cell_to_the_last(tmp_path: Path) -> None:
    _, _, search, front, trials, longer, evaluation, encoder = execute(client_of(NOTEBOOK, tmp_path))
    assert len(printed(search).splitlines()) < 5, "that Ray is starting, but no line for each second"
    assert "\x1b" not in printed(search)
    (live,) = (output for output in search if output.output_type != "stream")
    assert "5 of 5 done, 0 running" in shown(live), "Tune shows nothing of its own"
    (figure,) = front
    assert re.search(r'<img alt="the front" .*<table', figure.data["text/html"], re.DOTALL)
    for (output,), column in ((trials, "status"), (longer, "crop_passes"), (evaluation, "attack")):
        assert column in output.data["text/html"]
    assert list(open_study(tmp_path / "runs" / "digits").trials["status"]) == ["finished"] * 5
    (accuracy,) = re.findall(r"^([\d.]+)% of \d+ test images are", printed(encoder), re.MULTILINE)
    assert float(accuracy) > 50, "ten classes"


@pytest.mark.long
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
