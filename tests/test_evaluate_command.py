"""The command that evaluates a trained encoder: its record, its table, and what it refuses."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from test_train_command import KEYS, NO_GPU, Said, Terminal, files, said_by, tiny_study, train_into

from cfamc_ray.api import evaluate
from cfamc_ray.config.corruptions import CORRUPTIONS
from cfamc_ray.config.data import DataConfig, parse_data
from cfamc_ray.config.heads import HEADS
from cfamc_ray.config.protocol import COMPARED, PROTOCOLS, ProtocolConfig
from cfamc_ray.config.recipes import PublishedRow, read_recipe
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.splits import describe_test
from cfamc_ray.evaluate import main
from cfamc_ray.evaluation.attacks import AttackInvalid
from cfamc_ray.evaluation.measurement import Measurement
from cfamc_ray.lifecycle.evaluation_plan import Run, find_run
from cfamc_ray.lifecycle.evaluation_record import published, published_row
from cfamc_ray.method.encoder import save_encoder
from cfamc_ray.space.reading import resolve_study
from cfamc_ray.store.records import TrialFolder, write_config
from cfamc_ray.training.trainer import initial_encoder

FEW = ["--set", "images=60", "--set", "attacked_images=20"]
QUICK = [*FEW, "--set", "attack.steps=2", "--set", "attack.restarts=1", "--set", "epsilons=[1/255, 4/255]"]
NO_AUTOATTACK = ["--set", "autoattack_images=0", "--set", "autoattack_epsilons=[]"]
AUTOATTACK = ["--set", "autoattack_images=3", "--set", "autoattack_epsilons=[1/255]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, which tests only read."""
    runs = tmp_path_factory.mktemp("runs")
    assert train_into(runs, "--set", "pretraining.epochs=3").code == 0
    return runs / "cf-amc-ssl"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "cf-amc-ssl"))


def records_of(run: Path) -> dict[str, Any]:
    paths = sorted((run / "trial_00000" / "evaluations").iterdir())
    return {path.name: json.loads(path.read_text()) for path in paths}


def evaluated(run: Path, *words: str) -> dict[str, Any]:
    """The one record of a run that was evaluated without complaint."""
    said = said_by(main, str(run), *words)
    assert (said.code, said.err) == (0, "")
    (record,) = records_of(run).values()
    return dict(record)


def make_study(folder: Path, study: StudyConfig, *points: dict[str, Any]) -> Path:
    """A study whose trials all kept their encoders, which are those that training began with."""
    folder.mkdir(parents=True)
    write_config(folder, study)
    for number, point in enumerate(points):
        trial, config = TrialFolder(folder, number), study.trial_at(point)
        trial.open(point)
        trial.write_rows([{"epoch": 1, "done": True}])
        save_encoder(trial.encoder, initial_encoder(config), config.encoder)
    return folder


def assert_sound(results: list[dict[str, Any]]) -> None:
    """Counts, shares and intervals agree, and no attack leaves right what one before it broke."""
    clean = results[0]
    assert (clean["attack"], clean["epsilon"]) == ("none", 0)
    before: dict[str, Any] = clean
    for found in results:
        assert 0 <= found["right"] <= found["images"]
        assert found["accuracy"] == found["right"] / found["images"]
        low, high = found["interval_95"]
        assert 0 <= low <= found["accuracy"] <= high <= 1
        previous = before if found["after"] else clean
        assert found["images"] <= previous["images"]
        assert found["right"] <= previous["right"]
        before = found


@pytest.fixture(scope="module")
def attacked(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """A run that was evaluated with every attack, and what was said."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("attacked") / "cf-amc-ssl"))
    return run, said_by(main, str(run), *QUICK, *AUTOATTACK)


@pytest.fixture(scope="module")
def plain(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record that differs from others by what they change."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("plain") / "cf-amc-ssl"))
    return evaluated(run, *QUICK, *NO_AUTOATTACK)


def test_an_evaluation_without_corruptions_needs_no_pandas(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert evaluated(run, *QUICK, *NO_AUTOATTACK)["results"]


class TestStandard:
    @pytest.fixture
    def record(self, attacked: tuple[Path, Said]) -> dict[str, Any]:
        (record,) = records_of(attacked[0]).values()
        return dict(record)

    def test_every_attack_is_measured_on_what_the_one_before_it_left(self, record: dict[str, Any]) -> None:
        results = record["results"]
        assert [(found["attack"], round(found["epsilon"] * 255, 9), found["images"]) for found in results] == [
            ("none", 0, 60),
            ("pgd", 1, 20),
            ("pgd_margin", 1, 20),
            ("autoattack", 1, 3),
            ("pgd", 4, 20),
            ("pgd_margin", 4, 20),
        ]
        assert [found["after"] for found in results] == [
            *([], [], ["pgd"], ["pgd", "pgd_margin"]),
            *([], ["pgd"]),
        ]
        assert_sound(results)
        assert results[0]["right"] > results[1]["right"] > 0, "attacks that find nothing to do say nothing"

    def test_the_record_holds_all_that_the_result_depends_on(
        self, record: dict[str, Any], attacked: tuple[Path, Said]
    ) -> None:
        protocol = ProtocolConfig.model_validate(record["protocol"])
        assert (protocol.images, protocol.autoattack_images, protocol.seed) == (60, 3, 0)
        assert (protocol.head, protocol.attack.label) == (HEADS["standard"], "PGD-2")
        trial = TrialConfig.model_validate(record["trial"])
        assert trial == tiny_study().trial.with_values({"pretraining.epochs": 3})
        assert parse_data(**record["data"]) == trial.data
        assert record["run"] == "cf-amc-ssl"
        assert record["encoder"] == str(attacked[0] / "trial_00000" / "encoder.safetensors")
        assert record["device"].startswith("CPU" if not torch.cuda.is_available() else "")
        assert record["seconds"] >= 0
        assert record["test_sample"] == describe_test(trial.data, images=60)
        assert record["test_sample"]["images_per_class"] == [6] * 10
        assert datetime.fromisoformat(record["environment"]["date"]).tzinfo is not None
        assert {"torch", "numpy", "pyautoattack"} <= record["environment"]["versions"].keys()
        assert (record["problem"], record["published"]) == ("", None)

    def test_the_strength_of_the_head_is_the_balanced_one_on_held_out_training_images(
        self, record: dict[str, Any]
    ) -> None:
        chosen, points = record["strength"], record["strength"]["operating_points"]
        assert [point["l2"] for point in points] == record["protocol"]["head"]["l2"] == [1e-3, 1e-2, 1e-1, 3e-1, 1]
        sums = [point["clean_accuracy"] + point["robust_accuracy"] for point in points]
        assert chosen["l2"] == points[sums.index(max(sums))]["l2"]
        assert chosen["origin"] == "held_out"
        for point in points:
            share = point["clean_accuracy"] * 12
            assert share == pytest.approx(round(share)), "a fifth of 60 training images"
            assert 0 <= point["robust_accuracy"] <= point["clean_accuracy"] <= 1

    def test_the_table_shows_what_the_record_holds(self, record: dict[str, Any], attacked: tuple[Path, Said]) -> None:
        said = attacked[1]
        assert (said.code, said.err) == (0, "")
        progress, table, strength, end = said.out.split("\n\n")
        results = record["results"]
        assert progress.splitlines()[0] == "cf-amc-ssl: protocol standard on the test split of digits"
        assert len(progress.splitlines()) == 1 + len(results)
        assert table.splitlines()[0].split() == ["attack", "ε", "accuracy", "95", "%", "interval", "images"]
        for line, found in zip(table.splitlines()[1:], results, strict=True):
            low, high = found["interval_95"]
            radius = f"{found['epsilon'] * 255:.3g}/255" if found["epsilon"] else "–"
            cells = [radius, f"{found['accuracy']:.1%}", f"{low:.1%}", "–", f"{high:.1%}", str(found["images"])]
            title = f"{'+ ' * bool(found['after'])}{found['label']}"
            assert line.split() == [*title.split(), *cells]
        chosen, points = record["strength"], record["strength"]["operating_points"]
        first, heading, *lines = strength.splitlines()
        assert first == f"L2 strength of the head: {chosen['l2']:g}, chosen on held-out training images:"
        assert " ".join(heading.split()) == "L2 clean margins-30 at 1/255"
        for line, point in zip(lines, points, strict=True):
            accuracies = (point["clean_accuracy"], point["robust_accuracy"])
            assert line.split() == [f"{point['l2']:g}", *(f"{accuracy:.1%}" for accuracy in accuracies)]
        (path,) = (attacked[0] / "trial_00000" / "evaluations").iterdir()
        assert end.endswith(f"record {path}\n")
        assert path.name.startswith("standard-")

    def test_a_published_row_stands_beside_the_attack_that_it_is_of(
        self, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = PublishedRow(75.88, 55.97, 33.34)
        for module in ("evaluate", "lifecycle.evaluation_record"):
            monkeypatch.setattr(f"cfamc_ray.{module}.published_row", lambda *_: row)
        monkeypatch.setenv("COLUMNS", "40")
        said = said_by(main, str(run), *QUICK, *NO_AUTOATTACK, "--set", "epsilons=[1/255, 4/255, 8/255]")
        table = said.out.split("\n\n")[1].splitlines()
        assert table[0].split()[-1] == "published"
        assert [line.rpartition("  ")[2] for line in table[1:]] == [
            "75.88 %",
            *["–", "–"],
            *["55.97 %", "–"],
            *["33.34 %", "–"],
        ]
        (record,) = records_of(run).values()
        assert record["published"] == {"recipe": "cf-amc-ssl", "clean": 75.88, "4/255": 55.97, "8/255": 33.34}


class TestStrength:
    """The L2 strength of the head: chosen, given, or that of the run."""

    @staticmethod
    def of(run: Path, *words: str) -> tuple[dict[str, Any], dict[str, Any] | None, str]:
        """The record, its strength, and what was printed of it."""
        said = said_by(main, str(run), *QUICK, *NO_AUTOATTACK, *words)
        assert (said.code, said.err) == (0, "")
        path = Path(said.out.rpartition("record ")[2].strip())
        record = json.loads(path.read_text())
        return record, record["strength"], said.out.split("\n\n")[2]

    def test_the_chosen_one_gives_what_it_gives_when_it_is_given(self, run: Path) -> None:
        record, chosen, _ = self.of(run)
        assert chosen is not None
        given, strength, said = self.of(run, "--set", f"head.l2={chosen['l2']}")
        assert strength == {"l2": chosen["l2"], "origin": "protocol", "operating_points": []}
        assert said == f"L2 strength of the head: {chosen['l2']:g}, head.l2 of the protocol"
        assert given["results"] == record["results"]
        assert len(records_of(run)) == 2

    def test_of_a_run_with_one_it_is_that_one_unless_another_is_given_or_the_images_are_others(
        self, tmp_path: Path
    ) -> None:
        assert train_into(tmp_path, "--set", "evaluation.head.l2=0.3").code == 0
        run = tmp_path / "cf-amc-ssl"
        record, strength, said = self.of(run)
        assert strength == {"l2": 0.3, "origin": "run", "operating_points": []}
        assert said == "L2 strength of the head: 0.3, evaluation.head.l2 of the run"
        assert record["protocol"]["head"]["l2"] == [0.3]
        assert self.of(run, "--set", "head.l2=0.3")[0]["results"] == record["results"]
        assert len(records_of(run)) == 1, "the same settings, the same record"
        for words, origin in [
            (["--set", "head.l2=0.5"], "protocol"),
            (["--set", "head.l2=[0.01, 0.3]"], "held_out"),
            (["--set", "head.features=backbone"], "held_out"),
            (["--transfer", "digits"], "held_out"),
            (["--untrained"], "held_out"),
        ]:
            _, strength, _ = self.of(run, *words)
            assert strength is not None
            assert strength["origin"] == origin, words

    def test_of_a_trial_of_a_search_it_is_chosen_even_if_the_search_had_one(self, tmp_path: Path) -> None:
        words = [*KEYS, "evaluation.head.l2=0.3"]
        tree = {"name": "one", "base": "cf-amc-ssl", "space": {"crops.views": {"int": [2, 4]}}}
        study = resolve_study(tree, [word for word in words if "views" not in word], source="tiny")
        folder = make_study(tmp_path / "one", study, {"crops.views": 2})
        record, strength, _ = self.of(folder / "trial_00000")
        assert strength is not None
        assert (strength["origin"], len(strength["operating_points"])) == ("held_out", 5)
        assert record["trial"]["evaluation"]["head"]["l2"] == [0.3]

    def test_a_published_head_has_none(self, run: Path) -> None:
        said = said_by(main, str(run), "--protocol", "published-emp", *FEW)
        assert said.code == 0
        assert "L2" not in said.out
        (record,) = records_of(run).values()
        assert record["strength"] is None

    def test_without_a_radius_to_compare_them_at_one_strength_must_be_given(self, run: Path) -> None:
        words = [*FEW, *NO_AUTOATTACK, "--set", "epsilons=[]"]
        said = said_by(main, str(run), *words)
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert "epsilons is empty, but several strengths of head.l2 are compared at the first radius" in said.err
        record = evaluated(run, *words, "--set", "head.l2=0.1")
        assert [found["attack"] for found in record["results"]] == ["none"]

    def test_python_gets_the_curve_as_a_table(self, run: Path) -> None:
        overrides = [word for word in [*QUICK, *NO_AUTOATTACK] if word != "--set"]
        found = evaluate(run, overrides=overrides)
        points = found.record["strength"]["operating_points"]
        assert list(found.curve.columns) == ["l2", "clean_accuracy", "robust_accuracy", "probe_accuracy", "chosen"]
        assert found.curve.drop(columns="chosen").to_dict("records") == points
        assert found.strength is not None
        assert found.curve.l2[found.curve.chosen].tolist() == [found.strength.l2]
        assert found._repr_html_().count("<table") == 2
        given = evaluate(run, overrides=[*overrides, "head.l2=0.1"])
        assert given.curve.empty
        assert given.strength is not None
        assert (given.strength.l2, given.strength.origin) == (0.1, "protocol")
        assert given._repr_html_().count("<table") == 1


class TestTransferAndShift:
    """Few labels, corruptions and fine-tuning."""

    SMALL = (*QUICK, *NO_AUTOATTACK, "--set", "epsilons=[4/255]", "--set", "head.l2=0.1")

    def test_few_labels_are_drawn_several_times_and_averaged(self, run: Path) -> None:
        words = ["--protocol", "few-labels", *self.SMALL, "--set", "labels_per_class=2", "--set", "draws=3"]
        said = said_by(main, str(run), *words)
        assert (said.code, said.err) == (0, "")
        progress, table, *_ = said.out.split("\n\n")
        (record,) = records_of(run).values()
        results, means = record["results"], record["means"]
        assert [found["draw"] for found in results] == [0] * 3 + [1] * 3 + [2] * 3
        assert len(progress.splitlines()) == 1 + len(results)
        assert progress.splitlines()[4].startswith("  draw 2, none: ")
        assert [mean["draws"] for mean in means] == [3, 3, 3]
        assert means[0]["accuracy"] == pytest.approx(sum(found["right"] for found in results[::3]) / 3 / 60)
        assert "± of draws" in table.splitlines()[0]
        assert table.splitlines()[1].split()[2:4] == [f"{means[0]['accuracy']:.1%}", f"{means[0]['spread']:.1%}"]

    def test_more_labels_than_there_are_are_refused_before_anything_is_measured(self, run: Path) -> None:
        said = said_by(main, str(run), "--protocol", "few-labels", *self.SMALL, "--set", "labels_per_class=30")
        assert said.code == 2
        assert re.search(
            r"labels_per_class 30: of the 60 training images .* set labels_per_class to at most \d\n", said.err
        )
        assert not (run / "trial_00000" / "evaluations").exists()

    def test_corruptions_are_a_table_of_kinds_and_severities(self, run: Path) -> None:
        said = said_by(main, str(run), "--protocol", "corruptions", *self.SMALL)
        assert (said.code, said.err) == (0, "")
        progress, attacks, table, *_ = said.out.split("\n\n")
        (record,) = records_of(run).values()
        corrupted = [found for found in record["results"] if found["corruption"]]
        assert (len(corrupted), record["means"]) == (75, None)
        assert len(progress.splitlines()) == len(attacks.splitlines()) == 4, "clean and two attacks"
        heading, *lines, last = table.splitlines()
        assert heading.split() == [*["accuracy", "under", "corruption", "1", "2", "3", "4", "5", "mean"]]
        assert [line.split("  ")[0] for line in lines] == [kind.replace("_", " ") for kind in CORRUPTIONS]
        for place, line in enumerate(lines):
            accuracies = [found["accuracy"] for found in corrupted[5 * place : 5 * place + 5]]
            shown = [f"{accuracy:.1%}" for accuracy in (*accuracies, sum(accuracies) / 5)]
            assert line.split()[-6:] == shown
        assert record["corruption_accuracy"] == pytest.approx(sum(found["accuracy"] for found in corrupted) / 75)
        assert last.split()[0] == "mean"
        assert last.split()[-1] == f"{record['corruption_accuracy']:.1%}"

    def test_fine_tuning_changes_the_result_and_not_a_bit_of_the_stored_encoder(self, run: Path) -> None:
        stored = run / "trial_00000" / "encoder.safetensors"
        before, frozen = stored.read_bytes(), evaluated(run, *self.SMALL)
        words = [*self.SMALL, "--set", "finetune.layers=all", "--set", "finetune.epochs=6", "--set", "finetune.lr=0.05"]
        said = said_by(main, str(run), *words)
        assert (said.code, said.err) == (0, "")
        assert stored.read_bytes() == before
        record = json.loads(Path(said.out.rpartition("record ")[2].strip()).read_text())
        (losses,) = record["finetuning_losses"]
        assert len(losses) == 6
        assert losses[-1] < losses[0]
        assert frozen["finetuning_losses"] == []
        assert record["results"] != frozen["results"]

    def test_a_learning_rate_that_is_far_too_high_is_a_problem_with_its_remedy(self, run: Path) -> None:
        said = said_by(main, str(run), *self.SMALL, "--set", "finetune.layers=all", "--set", "finetune.lr=1e30")
        assert said.code == 1
        assert "the loss of fine-tuning is not finite in epoch 2: lower finetune.lr" in said.err

    def test_python_gets_means_and_the_table_of_corruptions(self, run: Path) -> None:
        overrides = [word for word in self.SMALL if word != "--set"]
        keys = ["corruptions=[fog, snow]", "severities=[2, 4]", "labels_per_class=1", "draws=2"]
        found = evaluate(run, overrides=[*overrides, *keys])
        assert found.results.draws.tolist() == [2] * 7
        assert found.results.corruption.dropna().tolist() == ["fog", "fog", "snow", "snow"]
        assert found.corruptions.index.tolist() == ["fog", "snow", "mean"]
        assert found.corruptions.columns.tolist() == [2, 4, "mean"]
        corrupted = found.results[found.results.corruption.notna()]
        assert found.corruptions.loc["mean", "mean"] == pytest.approx(corrupted.accuracy.mean())
        assert found.corruptions.loc["snow", 4] == corrupted.accuracy.iloc[3]
        assert found._repr_html_().count("<table") == 2
        assert evaluate(run, overrides=overrides).corruptions.empty


class TestProtocols:
    @pytest.mark.parametrize(("name", "label"), [("published-emp", "PGD-2"), ("published-simclr", "PGD-20")])
    def test_a_published_one_attacks_by_pgd_alone(self, run: Path, name: str, label: str) -> None:
        record = evaluated(run, "--protocol", name, *FEW)
        assert [found["attack"] for found in record["results"]] == ["none", "pgd", "pgd"]
        assert [found["label"] for found in record["results"]] == ["none", label, label]
        assert_sound(record["results"])
        expected = PROTOCOLS[name].model_copy(update={"images": 60, "attacked_images": 20})
        assert ProtocolConfig.model_validate(record["protocol"]) == expected

    def test_all_of_them_write_a_record_each(self, run: Path) -> None:
        said = said_by(main, str(run), "--protocol", "all", *QUICK, *NO_AUTOATTACK)
        assert (said.code, said.err) == (0, "")
        records = records_of(run)
        assert sorted(name.rpartition("-")[0] for name in records) == sorted(COMPARED)
        assert sorted(record["protocol"]["name"] for record in records.values()) == sorted(COMPARED)
        assert said.out.count("95 % interval") == len(COMPARED)

    @pytest.mark.parametrize(
        ("words", "changed"),
        [
            (["--head", "adversarial"], {"head": HEADS["adversarial"].model_dump(mode="json")}),
            (["--head", "published-simclr-robust", "--set", "head.epochs=1"], {}),
            (["--set", "head.features=backbone"], {}),
            (["--set", "crops=3"], {"crops": 3}),
            (["--set", "crops=3", "--set", "attack_each_crop=true"], {"crops": 3, "attack_each_crop": True}),
            (["--head", "published-crops", "--set", "crops=2", "--set", "head.epochs=2"], {"crops": 2}),
        ],
        ids=str,
    )
    def test_heads_features_and_crops_can_be_others(
        self, run: Path, words: list[str], changed: dict[str, Any], plain: dict[str, Any]
    ) -> None:
        record = evaluated(run, *QUICK, *NO_AUTOATTACK, *words)
        assert_sound(record["results"])
        assert changed.items() <= record["protocol"].items()
        assert record["protocol"] != plain["protocol"]
        assert record["results"] != plain["results"], "the setting changed nothing"

    @pytest.mark.parametrize(
        "words", [[], ["--set", "crops=3"], ["--head", "adversarial", "--set", "head.epochs=1"]], ids=str
    )
    def test_the_same_settings_give_the_same_result_in_the_same_record(self, run: Path, words: list[str]) -> None:
        first = evaluated(run, *QUICK, *NO_AUTOATTACK, *words)
        torch.manual_seed(99)
        again = evaluated(run, *QUICK, *NO_AUTOATTACK, *words)
        assert first["results"] == again["results"]
        assert first["protocol"] == again["protocol"]

    def test_another_seed_has_a_record_of_its_own(self, run: Path) -> None:
        for seed in ("0", "1"):
            said_by(main, str(run), "--protocol", "published-emp", *FEW, "--set", f"seed={seed}")
        first, second = records_of(run).values()
        assert {first["protocol"]["seed"], second["protocol"]["seed"]} == {0, 1}
        assert first["results"] != second["results"]

    def test_an_encoder_that_was_trained_in_float64_is_attacked_in_float32(
        self, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []

        def attack(_: object, images_NCHW: torch.Tensor, *__: object, **___: object) -> torch.Tensor:
            seen.append(images_NCHW.dtype)
            return images_NCHW

        monkeypatch.setattr("cfamc_ray.evaluation.autoattack.autoattack", attack)
        trial = tiny_study().trial
        encoder = initial_encoder(trial).double()
        save_encoder(run / "trial_00000" / "encoder.safetensors", encoder, trial.encoder)
        evaluated(run, *QUICK, *AUTOATTACK)
        assert seen == [torch.float32]

    def test_the_record_goes_where_it_is_asked_for(self, run: Path, tmp_path: Path) -> None:
        path = tmp_path / "new" / "record.json"
        said = said_by(main, str(run), *QUICK, *NO_AUTOATTACK, "--out", str(path))
        assert said.code == 0
        assert said.out.endswith(f"record {path}\n")
        assert json.loads(path.read_text())["results"][0]["images"] == 60
        assert not (run / "trial_00000" / "evaluations").exists()


class TestWhatIsSaid:
    def test_quiet_leaves_the_table_and_verbose_adds_the_settings(self, run: Path) -> None:
        words = [str(run), *QUICK, *NO_AUTOATTACK]
        normal, quiet, verbose = (said_by(main, *words, *more) for more in ([], ["--quiet"], ["--verbose"]))
        assert [said.code for said in (normal, quiet, verbose)] == [0, 0, 0]
        assert "\x1b" not in normal.out
        on_the_way = [line for line in normal.out.splitlines() if line.startswith("  ")]
        assert [line.split(":")[0].strip() for line in on_the_way] == [
            "none",
            *(f"{name} at {radius}/255" for radius in (1, 4) for name in ("PGD-2", "+ PGD-2 on the margin")),
        ]
        table = [line for line in normal.out.splitlines() if line.startswith(("attack", "none", "PGD", "+"))]
        assert len(table) == 6
        assert [line for line in quiet.out.splitlines() if line][:6] == table
        assert quiet.out.split("\n\n")[-2] == normal.out.split("\n\n")[-2], "the strengths"
        assert "attacked_images: 20" in verbose.out.splitlines()

    def test_a_terminal_shows_how_far_an_attack_is(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "60")
        terminal = Terminal()
        with redirect_stdout(terminal):
            assert main([str(run), *QUICK, *NO_AUTOATTACK, "--set", "epsilons=[1/255]"]) == 0
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
        *_, done = (match[1] for match in re.finditer(r"PGD-2 on the margin at 1/255\W+?(\d+/\d+)", shown))
        at, total = map(int, done.split("/"))
        assert at == total <= 20


class TestTransfer:
    def test_an_npz_file_is_probed_and_tested_on(self, run: Path, tmp_path: Path) -> None:
        path, random = tmp_path / "other.npz", np.random.default_rng(0)
        arrays = {}
        for split, count in (("train", 30), ("test", 15)):
            labels = np.arange(count) % 3
            arrays[f"y_{split}"] = labels
            arrays[f"x_{split}"] = random.integers(0, 40, (count, 12, 12, 3), np.uint8)
            arrays[f"x_{split}"][np.arange(count), :, :, labels] += 180
        arrays["x_train"] = np.concatenate([arrays["x_train"], arrays["x_test"]])
        arrays["y_train"] = np.concatenate([arrays["y_train"], np.full(15, -1)])  # unlabelled, so not probed on
        np.savez(path, **arrays)  # type: ignore[arg-type]
        record = evaluated(run, *QUICK, *NO_AUTOATTACK, "--transfer", f"npz:{path}")
        assert (record["data"]["name"], record["data"]["path"], record["data"]["probe_images"]) == (
            "npz",
            str(path),
            30,
        )
        assert record["trial"]["data"]["name"] == "digits"
        assert_sound(record["results"])
        clean = record["results"][0]
        assert (clean["images"], clean["right"]) == (15, 15), "its classes are colours"

    def test_two_files_of_as_many_images_have_a_record_each_and_a_moved_one_the_same(
        self, run: Path, tmp_path: Path
    ) -> None:
        random, paths = np.random.default_rng(0), [tmp_path / name for name in ("a.npz", "b.npz", "moved.npz")]
        images = {f"x_{split}": random.integers(0, 255, (30, 12, 12, 3), np.uint8) for split in ("train", "test")}
        labels = np.arange(30) % 3
        np.savez(paths[0], y_train=labels, y_test=labels, **images)  # type: ignore[arg-type]
        np.savez(paths[1], y_train=labels, y_test=labels[::-1], **images)  # type: ignore[arg-type]
        shutil.copy(paths[0], paths[2])
        words = ["--set", "epsilons=[]", "--set", "autoattack_epsilons=[]", "--set", "head.l2=0.1", *FEW]
        said = [said_by(main, str(run), "--transfer", f"npz:{path}", *words) for path in paths]
        assert [each.code for each in said] == [0, 0, 0], said
        records = sorted((run / "trial_00000" / "evaluations").glob("*.json"))
        assert len(records) == 2
        digests = {json.loads(path.read_text())["images"] for path in records}
        assert len(digests) == 2

    def test_where_the_run_s_own_images_are_is_not_asked_of_a_transfer(self, run: Path) -> None:
        said = said_by(main, str(run), "--transfer", "digits", "--set", "data.path=elsewhere.npz")
        assert said == (
            2,
            "",
            "--set data.path=elsewhere.npz: --transfer names the images, and where they are; leave one of them out\n",
        )

    def test_of_digits_all_training_images_are_probed_on(self, run: Path) -> None:
        record = evaluated(run, *QUICK, *NO_AUTOATTACK, "--transfer", "digits")
        assert (record["data"]["probe_images"], record["data"]["image_size"]) == (1437, 16)
        assert_sound(record["results"])

    @pytest.mark.parametrize(
        ("spec", "named"),
        [
            ("mnist", "--transfer mnist: there is no data set 'mnist': there are cifar10"),
            ("npz", "--transfer npz: npz needs a path: npz:PATH"),
            ("digits:here", "--transfer digits:here: digits has no path"),
            ("npz:nothing.npz", "nothing.npz: no such file"),
            ("imagefolder:nothing", "nothing: no such file or folder"),
            ("npz:one.npz", "one.npz: y_train must hold at least 2 classes, not 1"),
        ],
    )
    def test_what_is_no_data_set_is_refused(
        self, run: Path, spec: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        x, y = np.zeros((1, 8, 8, 3), np.uint8), np.ones(1, int)
        np.savez("one.npz", x_train=x, y_train=y, x_test=x, y_test=0 * y)
        said = said_by(main, str(run), "--transfer", spec)
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert named in said.err


class TestScale:
    def test_images_of_another_scale_than_the_crops_are_warned_of(self, run: Path, tmp_path: Path) -> None:
        path = tmp_path / "large.npz"
        x, y = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), np.uint8), np.arange(8) % 2
        np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
        words = [*QUICK, *NO_AUTOATTACK, "--transfer", f"npz:{path}"]
        said = said_by(main, str(run), *words)
        assert said.code == 0
        assert said.err.startswith("warning: The encoder trains on crops of 16 pixels a side")
        assert said.err.count("\n") == 1
        assert said_by(main, str(run), *words, "--set", "crops=2").err == "", "its crops are as in pretraining"


class TestUntrained:
    def test_the_initial_weights_of_a_run_are_evaluated_beside_its_own(
        self, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: Path) -> NoReturn:
            pytest.fail("the trained encoder was read")

        monkeypatch.setattr("cfamc_ray.method.encoder.load_encoder", refuse)
        record = evaluated(run, "--untrained", *QUICK, *NO_AUTOATTACK)
        assert (record["run"], record["encoder"], record["published"]) == ("cf-amc-ssl, untrained", "untrained", None)
        assert_sound(record["results"])

    def test_a_recipe_needs_no_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        expected = read_recipe("simclr-crops").trial()
        found = find_run("simclr-crops", untrained=True)
        assert found == Run(
            "simclr-crops, untrained", Path("runs/simclr-crops-untrained"), expected, "simclr-crops", None
        )

    def test_a_recipe_by_itself_is_refused_with_a_hint(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        said = said_by(main, "cf-amc-ssl")
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith("cf-amc-ssl: no such folder; for a recipe's initial weights add --untrained: ")


class TestRunIsFound:
    def test_by_its_folder_its_trials_and_the_one_around_it(self, run: Path) -> None:
        for folder in (run, run / "trial_00000", run.parent):
            found = find_run(str(folder), untrained=False)
            assert (found.name, found.folder, found.recipe) == ("cf-amc-ssl", run / "trial_00000", "cf-amc-ssl")
            assert found.encoder == run / "trial_00000" / "encoder.safetensors"

    def test_a_trial_of_a_study_that_searched_recipes_has_its_own(self, tmp_path: Path) -> None:
        bases = ["cf-amc-ssl", "simclr-crops-pgd"]
        tiny = {"encoder": {"width": 4, "prefeature_width": 4, "hidden_width": 4}}
        study = StudyConfig.model_validate({"name": "bases", "trial": tiny, "space": {"base": {"choice": bases}}})
        folder = make_study(tmp_path / "bases", study, *({"base": base} for base in bases))
        for number, base in enumerate(bases):
            found = find_run(str(folder / f"trial_0000{number}"), untrained=False)
            assert (found.name, found.recipe) == (f"bases/trial_0000{number}", base)
            assert found.trial.perturbation == read_recipe(base).trial().perturbation
            assert found.trial.encoder.width == 4
            assert published_row(found, found.trial.data) == read_recipe(base).published.cifar10  # type: ignore[union-attr]

    def test_a_trial_of_a_study_without_recipes_has_none(self, tmp_path: Path) -> None:
        given = {"encoder": {"width": 4, "prefeature_width": 4, "hidden_width": 4}}
        study = StudyConfig.model_validate({"name": "views", "trial": given, "space": {"crops.views": {"int": [2, 9]}}})
        found = find_run(str(make_study(tmp_path / "views", study, {"crops.views": 7})), untrained=False)
        assert (found.name, found.recipe, found.trial.crops.views) == ("views", None, 7)
        assert published(found, found.trial.data) is None


class TestPublishedRow:
    @staticmethod
    def run_of(recipe: str | None, data: str, *, encoder: Path | None = Path("encoder")) -> Run:
        trial = TrialConfig.model_validate({"data": {"name": data}})
        return Run("run", Path(), trial, recipe, encoder)

    @pytest.mark.parametrize(
        ("recipe", "data", "row"),
        [
            ("cf-amc-ssl", "cifar10", (75.88, 55.97, 33.34)),
            ("cf-amc-ssl", "cifar100", (50.74, 31.73, 17.19)),
            ("simclr-crops-free", "cifar10", (70.25, 48.34, 24.5)),
            ("cf-amc-ssl", "digits", None),
            ("emp-ssl-crops", "cifar10", None),
            (None, "cifar10", None),
        ],
    )
    def test_it_is_the_recipe_s_on_the_same_data(
        self, recipe: str | None, data: str, row: tuple[float, ...] | None
    ) -> None:
        run = self.run_of(recipe, data)
        assert published_row(run, run.trial.data) == row
        expected = (
            None if row is None else dict(zip(("recipe", "clean", "4/255", "8/255"), (recipe, *row), strict=True))
        )
        assert published(run, run.trial.data) == expected

    def test_there_is_none_for_a_transfer(self) -> None:
        assert published_row(self.run_of("cf-amc-ssl", "cifar10"), parse_data(name="cifar100")) is None

    def test_there_is_none_for_initial_weights(self) -> None:
        run = self.run_of("cf-amc-ssl", "cifar10", encoder=None)
        assert published_row(run, run.trial.data) is None


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "named"),
        [
            (["--set", "crop=3"], "protocol standard with --set crop=3: unknown key crop; did you mean crops?"),
            (["--set", "head.epoch=3"], "unknown key head.epoch; did you mean epochs?"),
            (["--set", "crops"], "--set crops: write key=value"),
            (["--set", "crops=-1"], "crops: input should be greater than or equal to 0 (it is -1)"),
            (["--set", "attack_each_crop=true"], "attack_each_crop needs crops, the number of crops of an image"),
            (["--set", "epsilons=[2/255]"], "4/255, 8/255 is not among epsilons"),
            (["--set", "head.fit=adam"], "phases is empty, so a head with fit adam would not be trained"),
            (["--set", "attack.loss=margin"], "margin_check must be false with attack pgd_margin, which has no other"),
            (["--protocol", "all", "--out", "record.json"], "--out: names one file, but --protocol all writes several"),
            pytest.param(["--device", "cuda"], "--device cuda: torch finds no GPU here", marks=NO_GPU),
        ],
        ids=str,
    )
    def test_it_is_refused_in_one_line_with_exit_code_2_and_nothing_is_written(
        self, run: Path, words: list[str], named: str
    ) -> None:
        before = files(run.parent)
        said = said_by(main, str(run), *words)
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert named in said.err
        assert files(run.parent) == before

    @pytest.mark.parametrize("words", [[], ["RUN", "--protocol", "mine"], ["RUN", "--head", "mine"]])
    def test_what_the_parser_refuses_ends_with_2_too(
        self, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert "usage: python -m cfamc_ray.evaluate" in capsys.readouterr().err

    @pytest.mark.parametrize("untrained", [[], ["--untrained"]], ids=["", "untrained"])
    def test_what_holds_no_run_is_refused(self, tmp_path: Path, untrained: list[str]) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "empty").mkdir()
        for name, problem in [
            ("nothing", "no such folder"),
            ("file", "no such folder"),
            ("empty", "holds no run; a finished one has an encoder.safetensors"),
        ]:
            said = said_by(main, str(tmp_path / name), *untrained)
            assert said == (2, "", f"{tmp_path / name}: {problem}\n")

    def test_without_an_encoder_it_says_why_and_initial_weights_need_none(self, run: Path) -> None:
        trial = TrialFolder(run, 0)
        trial.encoder.unlink()
        said = said_by(main, str(trial.path))
        assert said == (
            2,
            "",
            f"{trial.path}: finished, but its encoder.safetensors is not there; a study keeps those of its front "
            f"unless it has keep_encoders: all; cfamc train --trial {trial.path} trains it again\n",
        )
        assert said_by(main, str(trial.path), "--untrained", *QUICK, *NO_AUTOATTACK).code == 0
        trial.epochs_file.write_text(trial.epochs_file.read_text().splitlines()[0].replace("true", "false") + "\n")
        said = said_by(main, str(run))
        state = "holds an unfinished run: resume it with --resume; a finished one has an encoder.safetensors"
        assert said == (2, "", f"{run}: {state}\n")

    def test_of_several_encoders_one_must_be_named(self, run: Path) -> None:
        other = Path(shutil.copytree(run, run.parent / "other"))
        said = said_by(main, str(run.parent))
        assert said == (
            2,
            "",
            f"{run.parent}: holds several encoders; name one of {run / 'trial_00000'}, {other / 'trial_00000'}\n",
        )

    def test_a_trial_that_was_taken_out_of_its_study_is_refused(self, run: Path, tmp_path: Path) -> None:
        alone = (run / "trial_00000").rename(tmp_path / "best")
        said = said_by(main, str(alone))
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert said.err.startswith(f"{alone}: not named as a trial is, such as trial_00000")
        said = said_by(main, str(alone.rename(tmp_path / "trial_00000")))
        assert said == (2, "", f"{tmp_path}: holds no study (there is no study.yaml in it)\n")

    def test_a_damaged_encoder_is_refused(self, run: Path) -> None:
        (run / "trial_00000" / "encoder.safetensors").write_bytes(b"no weights")
        said = said_by(main, str(run), *QUICK, *NO_AUTOATTACK)
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert "encoder.safetensors: not an encoder that cfamc_ray saved" in said.err

    def test_where_the_record_cannot_be_written_what_was_computed_is_printed(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "record.json"
        said = said_by(main, str(run), *QUICK, *NO_AUTOATTACK, "--out", str(path))
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert said.err.startswith(f"{path}: cannot be written (")
        assert "name another file with --out" in said.err
        printed = json.loads(said.out.splitlines()[-1])
        assert printed["results"][0]["images"] == 60

    def test_a_process_of_its_own_shows_no_traceback(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "cfamc_ray.evaluate", "nothing"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", "nothing: no such folder\n")


class TestNotToBeTrusted:
    def test_where_autoattack_doubts_its_result_the_rest_is_kept_with_the_problem(
        self, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def doubt(*_: object, **__: object) -> NoReturn:
            raise AttackInvalid("AutoAttack warns: zero gradient.")

        monkeypatch.setattr("cfamc_ray.evaluation.autoattack.autoattack", doubt)
        said = said_by(main, str(run), *QUICK, *AUTOATTACK, "--set", "autoattack_images=20")
        assert said.code == 1
        assert said.err == "cf-amc-ssl: the result is not to be trusted. AutoAttack warns: zero gradient.\n"
        (record,) = records_of(run).values()
        assert record["problem"] == "AutoAttack warns: zero gradient."
        assert [found["attack"] for found in record["results"]] == ["none", "pgd", "pgd_margin"]
        assert said.out.split("\n\n")[1].count("\n") == 3

    def test_one_of_several_protocols_is_enough_for_exit_code_1(
        self, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def measure(_: Run, __: DataConfig, protocol: ProtocolConfig, *___: object) -> Iterator[Measurement]:
            yield Measurement.clean(10, 5)
            if protocol.name == "standard":
                raise AttackInvalid("it masks.")

        monkeypatch.setattr("cfamc_ray.lifecycle.evaluation.measure", measure)
        said = said_by(main, str(run), "--protocol", "all")
        assert (said.code, said.err.count("\n")) == (1, 1)
        problems = {record["protocol"]["name"]: record["problem"] for record in records_of(run).values()}
        assert problems == {"standard": "it masks.", "published-emp": "", "published-simclr": ""}

    def test_features_that_are_not_finite_are_a_problem_too(self, run: Path) -> None:
        trial = tiny_study().trial
        encoder = initial_encoder(trial)
        with torch.no_grad():
            next(encoder.parameters()).fill_(float("nan"))
        save_encoder(run / "trial_00000" / "encoder.safetensors", encoder, trial.encoder)
        said = said_by(main, str(run), *QUICK, *NO_AUTOATTACK)
        assert said.code == 1
        assert said.err == "cf-amc-ssl: the result is not to be trusted. the encoder's features are not finite\n"
        (record,) = records_of(run).values()
        assert (record["results"], record["problem"]) == ([], "the encoder's features are not finite")
