"""What the commands have in common."""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from rich.table import Table

from cfamc_ray.cli.command import exit_code, program, whole_table
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.evaluate import main as evaluate
from cfamc_ray.host.files import DiskFullError, write_text
from cfamc_ray.host.process import INTERRUPTED
from cfamc_ray.lifecycle.checks import check_data, check_folder
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.images import found_from
from cfamc_ray.store.records import TrialFolder, TrialRecord, write_config
from cfamc_ray.store.stop_reason import StopReason


def study(**given: object) -> StudyConfig:
    return StudyConfig.model_validate({"name": "made", "budget": {"trials": 2}, **given})


def fail(error: Exception) -> NoReturn:
    raise error


class TestExitCode:
    def test_bad_input_is_2_and_its_message_alone_reaches_stderr(self, capsys: pytest.CaptureFixture[str]) -> None:
        def refuse() -> int:
            raise InputError("--what: no; write yes")

        assert exit_code(refuse) == 2
        assert capsys.readouterr() == ("", "--what: no; write yes\n")

    @pytest.mark.parametrize("code", [0, 1, 130])
    def test_else_it_is_the_command_s_own(self, code: int, capsys: pytest.CaptureFixture[str]) -> None:
        assert exit_code(lambda: code) == code
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize(
        "error",
        [ZeroDivisionError(), PermissionError(errno.EACCES, "no file is named"), FileNotFoundError(2, "none", "file")],
        ids=repr,
    )
    def test_an_error_of_the_program_is_not_hidden(self, error: Exception) -> None:
        with pytest.raises(type(error)):
            exit_code(lambda: fail(error))

    @pytest.mark.parametrize(
        ("number", "said"),
        [
            (errno.EACCES, "/a place: Permission denied; name a place that can be read and written\n"),
            (errno.EROFS, "/a place: Read-only file system; name a place that can be read and written\n"),
            (errno.ENOTDIR, "/a place: Not a directory; name another place\n"),
            (errno.EISDIR, "/a place: Is a directory; name another place\n"),
            (errno.ELOOP, "/a place: Too many levels of symbolic links; name another place\n"),
            (errno.ENAMETOOLONG, "/a place: File name too long; name a shorter one\n"),
            (errno.ENOSPC, "/a place: there is no room on its disk; make some, then re-run the command\n"),
            (errno.EDQUOT, "/a place: there is no room on its disk; make some, then re-run the command\n"),
        ],
    )
    def test_what_the_system_says_of_a_place_is_a_line_and_2(
        self, number: int, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert exit_code(lambda: fail(OSError(number, os.strerror(number), "/a place"))) == 2
        assert capsys.readouterr() == ("", said)

    @pytest.mark.parametrize(
        "error", [DiskFullError("runs/x/trial_00003: the disk is full"), RuntimeError("database or disk is full")]
    )
    def test_so_is_a_full_disk_that_a_library_met(self, error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
        assert exit_code(lambda: fail(error)) == 2
        assert capsys.readouterr().err.startswith(f"{error}: there is no room on its disk; make some")

    def test_a_file_that_a_full_disk_has_no_room_for_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cfamc_ray.host.files.token_hex", lambda _: "0")
        (tmp_path / "front.csv.0.partial").symlink_to("/dev/full")

        def write() -> int:
            write_text(tmp_path / "front.csv", "trial_id")
            return 0

        assert exit_code(write) == 2
        assert capsys.readouterr().err.startswith(f"{tmp_path / 'front.csv'}: there is no room on its disk")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
    @pytest.mark.parametrize("caught", [False, True], ids=["", "caught"])
    def test_signals_end_a_command_with_codes_of_their_own(
        self, number: signal.Signals, code: int, caught: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def work() -> int:
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt:
                if not caught:
                    raise
                return INTERRUPTED
            pytest.fail("it went on")

        assert exit_code(work) == code
        assert capsys.readouterr() == ("", "" if caught else "Interrupted\n")

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
    def test_so_they_do_while_an_encoder_is_evaluated(
        self,
        number: signal.Signals,
        code: int,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("cfamc_ray.evaluation.protocols.measure_on", lambda *_, **__: signal.raise_signal(number))
        record = tmp_path / "record.json"
        assert evaluate(["cf-amc-ssl", "--untrained", "--transfer", "digits", "--out", str(record)]) == code
        assert capsys.readouterr().err == "Interrupted\n"
        assert not record.exists()

    def test_a_command_that_ends_in_spite_of_a_signal_has_its_own_code(self) -> None:
        def work() -> int:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            return 1

        assert exit_code(work) == 1


class TestCheckData:
    def test_crops_of_another_scale_than_the_images_are_warned_of_once(self, caplog: pytest.LogCaptureFixture) -> None:
        data = {"name": "digits", "image_size": 40, "pretrain_images": 200, "probe_images": 50, "validation_images": 50}
        trials = [TrialConfig.model_validate({"data": data, "crops": {"size": size}}) for size in (16, 16, 20, 32)]
        check_data(study(trial=trials[0]), iter(trials))
        (line,) = caplog.messages
        assert line.startswith("warning: The encoder trains on crops of 16 pixels a side (crops.size) but ")

    def test_whole_images_that_patches_do_not_tile_are_refused_before_training(self, tmp_path: Path) -> None:
        arrays: dict[str, Any] = {}
        for split, count in (("train", 40), ("test", 10)):
            arrays[f"x_{split}"] = np.random.default_rng(0).integers(0, 256, (count, 30, 30, 3), np.uint8)
            arrays[f"y_{split}"] = np.arange(count) % 2
        np.savez(tmp_path / "images.npz", **arrays)
        counts = {"pretrain_images": 20, "probe_images": 20, "validation_images": 10}
        tree = {"data": {"name": "npz", "path": str(tmp_path / "images.npz"), **counts}}
        tree |= {"encoder": {"architecture": "vit"}, "pretraining": {"batch_images": 10}}
        trial = TrialConfig.model_validate(tree)
        with pytest.raises(InputError, match=r"images.npz: its images of 30x30 pixels .* the patches of 4 pixels"):
            check_data(study(trial=trial), [trial])


class TestProgram:
    @pytest.fixture
    def environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "a place" / ".venv" / "bin"
        folder.mkdir(parents=True)
        for name in ("python3.11", "python", "tensorboard"):
            (folder / name).touch()
        monkeypatch.setattr(sys, "executable", str(folder / "python3.11"))
        return folder

    def test_it_is_short_where_the_environment_lies_below(
        self, environment: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(environment.parent.parent)
        assert [program("python"), program("tensorboard")] == [".venv/bin/python", ".venv/bin/tensorboard"]

    def test_it_is_whole_elsewhere(self, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert program("python") == str(environment / "python")

    def test_it_is_a_bare_name_where_the_environment_lacks_it(self, environment: Path) -> None:
        assert program("tensorbored") == "tensorbored"


class TestWholeTable:
    @pytest.mark.parametrize("columns", ["10", "40", "500"])
    def test_no_cell_is_cut_on_a_terminal_of_any_width(self, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", columns)
        table = Table("short", "long", box=None)
        table.add_row("a", "word " * 30)
        table.add_row("b", "x" * 300)
        heading, words, letters = whole_table(table).splitlines()
        assert heading.split() == ["short", "long"]
        assert words.split() == ["a", *["word"] * 30]
        assert letters.split() == ["b", "x" * 300]
        assert not words.endswith(" ")


class TestAbsolutePath:
    @pytest.fixture(autouse=True)
    def folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "data").mkdir()
        (tmp_path / "elsewhere" / "here.npz").touch()
        (tmp_path / "data" / "there.npz").touch()
        monkeypatch.setenv("CFAMC_DATA", str(tmp_path / "data"))
        monkeypatch.chdir(tmp_path / "elsewhere")

    def test_what_lies_in_the_working_directory_is_found_from_elsewhere_too(self, tmp_path: Path) -> None:
        given, resolved = (
            study(trial={"data": {"name": "npz", "path": path}, "crops": {"views": 5}})
            for path in ("here.npz", str(tmp_path / "elsewhere" / "here.npz"))
        )
        assert found_from(given, Path()) == resolved

    def test_so_is_what_a_transfer_is_judged_on(self, tmp_path: Path) -> None:
        transfer = {"name": "npz", "path": "../elsewhere/here.npz", "probe_images": 9}
        config = found_from(study(trial={"evaluation": {"transfer": transfer}}), Path())
        resolved = config.trial.evaluation.transfer
        assert resolved is not None
        assert (resolved.location, resolved.probe_images) == (str(tmp_path / "elsewhere" / "here.npz"), 9)

    @pytest.mark.parametrize("data", [{"name": "npz", "path": "there.npz"}, {"name": "npz", "path": "no.npz"}, {}])
    def test_all_else_stays_as_it_was_written(self, data: dict[str, str]) -> None:
        config = study(trial={"data": data})
        assert found_from(config, Path()) == config


class TestFolder:
    @staticmethod
    def make(folder: Path, config: StudyConfig, *statuses: Status) -> None:
        write_config(folder, config)
        for number, status in enumerate(statuses):
            trial = TrialFolder(folder, number)
            trial.open({})
            trial.write_rows([{"epoch": 1, "done": status == "finished"}])
            if status not in ("running", "finished"):
                trial.close(status)

    def test_an_empty_place_may_be_begun_but_not_resumed(self, tmp_path: Path) -> None:
        assert check_folder(study(), tmp_path / "made", resume=False) is False
        with pytest.raises(InputError, match="made: there is nothing to resume; leave out --resume to begin"):
            check_folder(study(), tmp_path / "made", resume=True)
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize("resume", [False, True])
    def test_a_study_that_was_refused_before_its_first_trial_may_be_begun(self, tmp_path: Path, resume: bool) -> None:
        self.make(tmp_path, study())
        assert check_folder(study(), tmp_path, resume=resume) is False

    @pytest.mark.parametrize("resume", [False, True])
    def test_of_a_finished_study_all_trials_have_ended(self, tmp_path: Path, resume: bool) -> None:
        self.make(tmp_path, study(), "finished", "failed")
        assert check_folder(study(), tmp_path, resume=resume) is True

    @pytest.mark.parametrize("statuses", [("finished", "running"), ("finished",), ("running", "running")])
    def test_an_unfinished_one_goes_on_only_when_asked(self, tmp_path: Path, statuses: tuple[Status, ...]) -> None:
        self.make(tmp_path, study(), *statuses)
        ended = statuses.count("finished")
        with pytest.raises(InputError, match=rf"{ended} of 2 trials ended; re-run with --resume"):
            check_folder(study(), tmp_path, resume=False)
        assert check_folder(study(), tmp_path, resume=True) is False

    @pytest.mark.parametrize(
        ("statuses", "spent", "finished"),
        [
            (("finished",), "nothing is left", True),
            (("finished", "running"), "nothing is left", False),
            (("finished", "finished"), "", False),
        ],
    )
    def test_a_budget_of_another_kind_decides_in_place_of_the_number_of_trials(
        self, tmp_path: Path, statuses: tuple[Status, ...], spent: str, finished: bool
    ) -> None:
        self.make(tmp_path, study(), *statuses)

        def over(records: Sequence[TrialRecord]) -> StopReason | None:
            assert [record.status for record in records] == list(statuses)
            return StopReason("budget", spent) if spent else None

        assert check_folder(study(), tmp_path, resume=True, over=over) is finished

    @pytest.mark.parametrize("resume", [False, True])
    @pytest.mark.parametrize(
        ("given", "different"),
        [
            ({"trial": {"crops": {"views": 5}, "seed": 3}}, "trial.crops.views, trial.seed"),
            ({"space": {"crops.views": {"int": [2, 4]}}}, "space"),
            ({"objectives": {"flops": "minimize"}}, "objectives.clean_accuracy, objectives.flops, objectives.robust"),
        ],
    )
    def test_another_study_is_refused_with_what_differs(
        self, tmp_path: Path, given: dict[str, object], different: str, resume: bool
    ) -> None:
        self.make(tmp_path, study(), "finished", "finished")
        with pytest.raises(
            InputError, match=rf"of another space \(different: {different}.*name another folder with --out"
        ):
            check_folder(study(**given), tmp_path, resume=resume)

    @pytest.mark.parametrize("given", [{"question": "Why?"}, {"resources": {"cpus_per_worker": 3}}])
    def test_wording_and_machines_may_change(self, tmp_path: Path, given: dict[str, object]) -> None:
        self.make(tmp_path, study(), "finished", "finished")
        assert check_folder(study(**given), tmp_path, resume=False) is True
