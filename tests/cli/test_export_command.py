"""A study that is given to others: what is in the copy, what is not, and what can be done with it."""

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from made_by_hand import curve
from tiny_trials import tiny_config

from cfamc_ray import open_study
from cfamc_ray.cli.export import main
from cfamc_ray.cli.report import main as report
from cfamc_ray.config.heads import ProbeConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.evaluation.classifier import load_classifier, save_heads
from cfamc_ray.method.encoder import SelfSupervisedEncoder, load_encoder, save_encoder
from cfamc_ray.store.interpolations import Interpolation, read_interpolations, write_interpolation
from cfamc_ray.store.records import TrialFolder, read_config, read_trials, write_config

pytestmark = pytest.mark.usefixtures("nothing_is_drawn")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three trials with encoders, of which the last is dominated; a confirmation; and what stays on the machine."""
    folder = tmp_path / "mine" / "made"
    trial = tiny_config().model_dump(mode="json")
    trial["data"] |= {"name": "npz", "path": str(tmp_path / "secret" / "images.npz")}
    space = {"crops.views": {"int": [2, 40]}, "perturbation.epsilon": {"float": ["1/255", "16/255"]}}
    config = StudyConfig.model_validate({"name": "made", "question": "Why?", "trial": trial, "space": space})
    for part, scores in ((folder, [(0.5, 0.3), (0.6, 0.1), (0.4, 0.1)]), (folder / "confirm", [(0.5, 0.2)])):
        part.mkdir(parents=True)
        write_config(part, config)
        for number, (clean, robust) in enumerate(scores):
            made, kept = curve(number, (0.01, clean, robust)), TrialFolder(part, number)
            kept.open(made.point)
            kept.write_rows(made.rows)
            encoder = SelfSupervisedEncoder(config.trial.encoder)
            save_encoder(kept.encoder, encoder, config.trial.encoder)
            save_heads(kept.heads, [torch.nn.Linear(8, 2)], ProbeConfig(l2=(0.01,)))
            kept.checkpoint.write_bytes(b"state")
            (kept.path / "events.out.tfevents.1").write_bytes(b"events")
    (folder / "images.json").write_text(f'{{"data": {{"digest": "abc", "path": "{tmp_path}/secret/images.npz"}}}}\n')
    (folder / "front.csv").write_text("trial_id\n")
    (folder / "optuna.db").write_bytes(b"storage")
    return folder


def test_the_folder_is_a_study_without_what_only_the_machine_needs(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shared" / "made"
    assert main([str(study), "--out", str(out)]) == 0
    assert "2 encoders" in capsys.readouterr().out
    assert read_trials(out) == read_trials(study)
    assert read_trials(out / "confirm") == read_trials(study / "confirm")
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {name for name in names if "encoder" in name} == {f"trial_0000{n}/encoder.safetensors" for n in (0, 1)}
    assert {"README.md", "SHA256SUMS", "study.yaml", "images.json", "front.csv", "report/report.html"} <= names
    assert not any(word in name for name in names for word in ("checkpoint", "tfevents", "optuna"))
    for path in out.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert str(tmp_path) not in path.read_text(encoding="utf-8"), path
    assert read_config(out).trial.data.location == "images.npz"
    assert '"digest": "abc"' in (out / "images.json").read_text()


def test_checksums_are_those_of_all_other_files(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    main([str(study), "--out", str(out)])
    lines = [line.split("  ") for line in (out / "SHA256SUMS").read_text().splitlines()]
    sums = {name: digest for digest, name in lines}
    others = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert sums == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in others.items() if name != "SHA256SUMS"
    }


def test_a_zip_can_be_opened_reported_and_used_anywhere(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(study)]) == 0
    weights = load_encoder(study / "trial_00000" / "encoder.safetensors").state_dict()
    shutil.rmtree(study)
    shutil.unpack_archive("made.zip", "elsewhere")
    folder = Path("elsewhere") / "made"
    assert [*open_study(folder).front["trial_id"]] == ["trial_00001", "trial_00000"]
    assert report([str(folder)]) == 0
    encoder = load_encoder(folder / "trial_00000" / "encoder.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize(("encoders", "number"), [("none", 0), ("front", 2), ("all", 3)])
def test_encoders_are_those_that_are_asked_for(study: Path, tmp_path: Path, encoders: str, number: int) -> None:
    assert main([str(study), "--out", str(tmp_path / "copy"), "--encoders", encoders]) == 0
    assert len(list((tmp_path / "copy").glob("trial_*/encoder.safetensors"))) == number


def test_interpolations_are_copied_with_the_weights_of_those_on_the_front(study: Path, tmp_path: Path) -> None:
    for share, clean in ((0.25, 0.45), (0.5, 0.55)):
        row = curve(0, (0.01, clean, 0.2)).rows[-1]
        made = Interpolation(0, 1, share, row)
        (study / made.name).mkdir()
        for name in ("encoder.safetensors", "heads.safetensors"):
            shutil.copyfile(study / "trial_00000" / name, study / made.name / name)
        write_interpolation(study, made)
    for encoders, with_weights in (("front", [0.5]), ("all", [0.25, 0.5]), ("none", [])):
        out = tmp_path / encoders
        assert main([str(study), "--out", str(out), "--encoders", encoders]) == 0
        copied = read_interpolations(out)
        assert copied == read_interpolations(study)
        assert [one.share for one in copied if (out / one.name / "heads.safetensors").exists()] == with_weights


def test_the_card_tells_the_front_and_how_it_is_used(study: Path, tmp_path: Path) -> None:
    main([str(study), "--out", str(tmp_path / "copy")])
    card = (tmp_path / "copy" / "README.md").read_text()
    assert card.startswith("# made\n\nWhy?\n")
    assert "3 finished of" in card
    assert "The encoders (resnet18, width 4)" in card
    assert "l∞ radius of 4/255" in card
    assert "| trial_00001 | 60.0% " in " ".join(card.split())
    assert "`cfamc tune --space made/study.yaml --out . --resume --trials N` adds trials" in card
    assert 'cfamc_ray.load_classifier("made/trial_00001", l2=0.01)' in card


def test_the_card_names_the_searched_values_of_the_exported_trials(study: Path, tmp_path: Path) -> None:
    config = read_config(study)
    space = {**config.model_dump(mode="json")["space"], "encoder.width": {"choice": [8, 16, 64]}}
    write_config(study, StudyConfig.model_validate({**config.model_dump(mode="json"), "space": space}))
    for number, width in ((0, 16), (1, 8), (2, 64)):
        trial = TrialFolder(study, number)
        record = trial.read()
        assert record is not None
        trial.trial_file.unlink()
        trial.open({**record.point, "encoder.width": width})
    main([str(study), "--out", str(tmp_path / "copy"), "--encoders", "front"])
    assert "The encoders (resnet18, width 8 or 16)" in (tmp_path / "copy" / "README.md").read_text()


@pytest.mark.parametrize("out", ["copy", "copy.zip"])
def test_an_interrupted_export_leaves_nothing(
    study: Path, tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[object] = []

    def interrupted(self: zipfile.ZipFile, *_: object, **__: object) -> None:
        written.append(self)
        if len(written) > 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "write", interrupted)
    monkeypatch.setattr(Path, "rename", interrupted if out == "copy" else Path.rename)
    written.extend([None] * 5 if out == "copy" else [])
    assert main([str(study), "--out", str(tmp_path / "shared" / out)]) == 130
    assert list((tmp_path / "shared").iterdir()) == []


def test_interpolations_of_a_confirmation_are_copied_without_weights(study: Path, tmp_path: Path) -> None:
    made = Interpolation(0, 1, 0.5, curve(0, (0.01, 0.5, 0.2)).rows[-1])
    (study / "confirm" / made.name).mkdir()
    write_interpolation(study / "confirm", made)
    assert main([str(study), "--out", str(tmp_path / "copy"), "--encoders", "all"]) == 0
    assert read_interpolations(tmp_path / "copy" / "confirm") == [made]


@pytest.mark.parametrize("out", ["there", "there.zip"])
def test_nothing_is_overwritten(study: Path, tmp_path: Path, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / out).write_text("mine")
    assert main([str(study), "--out", str(tmp_path / out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / out).read_text() == "mine"


def test_a_folder_without_a_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--out", str(tmp_path / "copy")]) == 2
    assert "holds no study" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


@pytest.mark.long
def test_onnx_files_of_encoders_and_of_the_points_of_the_front_are_part_of_the_copy(
    study: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx (110 MB)")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx (110 MB)")
    out = tmp_path / "copy"
    between = Interpolation(0, 1, 0.5, curve(0, (0.01, 0.5, 0.2)).rows[-1])
    shutil.copytree(study / "trial_00000", study / between.name, ignore=lambda *_: ["trial.json", "epochs.jsonl"])
    write_interpolation(study, between)
    assert main([str(study), "--out", str(out), "--encoders", "all", "--onnx"]) == 0
    of_front = {f"trial_0000{n}/{name}.onnx" for n in (0, 1) for name in ("encoder", "classifier_l2_0.01")}
    files = {path.relative_to(out).as_posix() for path in out.rglob("*.onnx*")}
    assert files == {*of_front, "trial_00002/encoder.onnx", f"{between.name}/encoder.onnx"}
    assert files <= {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert 'onnxruntime.InferenceSession("made/trial_00000/classifier_l2_0.01.onnx")' in (out / "README.md").read_text()
    package = str(Path(sys.modules["cfamc_ray"].__file__ or "").parent.parent).encode()
    assert not any(place in (out / file).read_bytes() for file in files for place in (package, bytes(tmp_path)))
    pixels = torch.rand(3, 3, 16, 16)
    for trial in ("trial_00000", "trial_00001"):
        session = runtime.InferenceSession(out / trial / "classifier_l2_0.01.onnx")
        (logits,) = session.run(["logits"], {"pixels": pixels.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), load_classifier(study / trial)(pixels), rtol=0, atol=1e-4)


def test_without_the_packages_of_onnx_the_extra_is_named(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main([str(study), "--out", str(tmp_path / "copy"), "--onnx"]) == 2
    assert "onnxscript not installed: pip install 'cfamc_ray[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def test_onnx_files_without_encoders_are_refused(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(study), "--out", str(tmp_path / "copy"), "--onnx", "--encoders", "none"]) == 2
    assert "use it with --encoders front or all" in capsys.readouterr().err
