"""What is said on the way: live on a terminal of any width, plain lines elsewhere, as much as was asked for."""

import argparse
import io
import re

import pytest
from test_train_command import Terminal

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.front.progress import progress_of
from cfamc_ray.orchestration.view import StudyView
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.terminal import Detail, ProgressView, add_detail_options, detail_words, epoch_line

STUDY = StudyConfig.model_validate(
    {
        "name": "small",
        "question": "Do more crops and more epochs pay, and if so, which of both is the better use of time?",
        "budget": {"trials": 4},
        "trial": {"data": {"name": "digits"}, "pretraining": {"epochs": 2}},
        "space": {"crops.views": {"int": [2, 40]}, "perturbation.epsilon": {"float": ["1/255", "16/255"]}},
    }
)
ROW = {
    "epoch": 1,
    "done": False,
    "clean_accuracy": 0.5,
    "robust_accuracy": 0.25,
    "loss": -200.0,
    "crop_passes_per_second": 1234.5,
    "learning_rate": 0.15,
    "clipped_share": 0.4,
    "delta_border_share": 0.3,
    "peak_memory_bytes": 1.7e9,
    "crop_passes": 10,
}


def trial(number: int, epochs: int = 0, **ended: str) -> TrialRecord:
    rows = [{**ROW, "epoch": epoch} for epoch in range(1, epochs + 1)]
    return TrialRecord(number, {"crops.views": number + 2, "perturbation.epsilon": 8 / 255}, rows, **ended)  # type: ignore[arg-type]


def show(view: StudyView, *records: TrialRecord) -> None:
    view.show(progress_of(STUDY, records, seconds=3700.0, ended_before=0), records)


def plain(text: str) -> list[str]:
    return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)) if line.strip()]


@pytest.fixture(params=[30, 40, 80, 200])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("TERM", "xterm")
    return int(request.param)


class TestStudyView:
    def test_it_fits_a_terminal_of_any_width_and_nothing_is_cut(self, width: int) -> None:
        terminal = Terminal()
        with StudyView(STUDY, terminal) as view:
            show(view, trial(0, 2, status="finished"), trial(1, 1))
        lines = plain(terminal.getvalue())
        assert max(map(len, lines)) <= width
        said = " ".join(" ".join(lines).split())
        assert "…" not in said
        for words in ("1 of 4 done, 1 running", "50.0%", "25.0%", "1 h 01 min", "3 h 05 min left", "epoch 2 of 2;"):
            assert set(words.split()) <= {*re.split(r"[ ,]+", said), *said.split()}, words

    def test_verbose_tells_points_epochs_and_ends_once_in_order(self) -> None:
        stream = io.StringIO()
        with StudyView(STUDY, stream, detail="verbose") as view:
            show(view, trial(0, 2, status="finished"), trial(1))
            show(view, trial(0, 2, status="finished"), trial(1, 1))
            show(view, trial(0, 2, status="finished"), trial(1, 1, status="stopped", reason="fell behind"), trial(2))
        told = [line for line in stream.getvalue().splitlines() if line.startswith("trial ")]
        assert told == [
            "trial 1: views 3, epsilon 8/255",
            "trial 1: epoch 1 of 2: loss -200, clean 50.0%, margins-30 at 4/255 25.0%, 1,234 crop passes a second",
            "trial 1: stopped: fell behind",
            "trial 2: views 4, epsilon 8/255",
        ]
        assert "\x1b" not in stream.getvalue()

    @pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
    def test_quiet_says_nothing(self, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        with StudyView(STUDY, stream, detail="quiet") as view:
            show(view, trial(0, 2, status="finished"), trial(1, 1))
        assert stream.getvalue() == ""


class TestProgressView:
    def test_its_bar_fits_a_terminal_of_any_width(self, width: int) -> None:
        terminal = Terminal()
        with ProgressView("minibatches", 10, terminal) as view:
            view.advance(3)
            view.say("a line that says [something] of its own")
            view.move_to(9, what="others", total=12)
        lines = plain(terminal.getvalue())
        bars = [line for line in lines if "/" in line]
        assert "a line that says [something] of its own" in lines
        assert max(map(len, bars)) <= width
        assert "others" in bars[-1]

    @pytest.mark.parametrize("term", ["xterm", "dumb"])
    def test_where_nothing_can_move_there_are_only_lines(self, term: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", term)
        stream = Terminal() if term == "dumb" else io.StringIO()
        with ProgressView("minibatches", 10, stream) as view:
            view.advance()
            view.say("a line")
        assert stream.getvalue() == "a line\n"

    def test_quiet_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        terminal = Terminal()
        with ProgressView("minibatches", 10, terminal, detail="quiet") as view:
            view.advance()
            view.say("a line")
        assert terminal.getvalue() == ""


def test_an_epoch_says_what_was_measured_and_on_request_how_training_stands() -> None:
    config = TrialConfig.model_validate({"pretraining": {"epochs": 2}})
    unmeasured = {**ROW, "clean_accuracy": None, "robust_accuracy": None}
    assert epoch_line(config, unmeasured, detail="normal") == ("epoch 1 of 2: loss -200, 1,234 crop passes a second")
    assert epoch_line(config, ROW, detail="verbose").endswith(
        ", learning rate 0.15, 40% of the layers' steps clipped, 30% of the perturbation at the border, 1.7GB of memory"
    )
    assert "clipped" not in epoch_line(config, {**ROW, "clipped_share": None}, detail="verbose")


@pytest.mark.parametrize("detail", ["normal", "quiet", "verbose"])
def test_the_option_is_typed_as_it_was_read(detail: Detail) -> None:
    parser = argparse.ArgumentParser()
    add_detail_options(parser, verbose="more")
    assert parser.parse_args(detail_words(detail)).detail == detail


def test_both_options_at_once_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_detail_options(parser, verbose="more")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--quiet", "--verbose"])
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
