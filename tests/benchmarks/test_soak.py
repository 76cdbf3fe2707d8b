"""The ledger of the soak: its verdict on studies made by hand."""

import json
import random
from pathlib import Path

import pytest

from benchmarks.soak import DAMAGES, SPACE, Ledger, RunEntry, State, result
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.search.bookkeeping import open_study, reconcile
from cfamc_ray.search.storage import open_storage
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.records import TrialFolder, read_trials, write_config

TRIALS = 3
CONFIG = StudyConfig.model_validate({**SPACE, "budget": {"trials": TRIALS}})


def train(study: Path, number: int, *, clean: float, seconds: float = 1.0) -> TrialFolder:
    """What a trial leaves in its folder; its seconds differ where it is trained again."""
    folder = TrialFolder(study, number)
    folder.open(next(SearchSpace(CONFIG).points()) | {"crops.views": number + 2})
    scores = {"clean_accuracy": clean, "robust_accuracy": 0.25}
    folder.write_rows([{"epoch": 1, "done": True, **scores, "train_seconds": seconds}])
    folder.encoder.write_text(f"weights {clean}")
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study that is over: two finished trials, and one that diverged."""
    folder = tmp_path / "soak"
    folder.mkdir()
    write_config(folder, CONFIG)
    train(folder, 0, clean=0.5)
    train(folder, 1, clean=0.75)
    diverged = TrialFolder(folder, 2)
    diverged.open(next(SearchSpace(CONFIG).points()))
    diverged.close("failed", "diverged")
    reconcile(open_study(CONFIG, open_storage(folder)), CONFIG, read_trials(folder))
    return folder


@pytest.fixture
def ledger(study: Path) -> Ledger:
    known = Ledger()
    assert known.note(study) == TRIALS
    return known


def test_nothing_is_wrong_with_a_study_that_nothing_happened_to(study: Path, ledger: Ledger) -> None:
    assert ledger.faults(study) == []
    assert ledger.faults_at_the_end(study, trials=TRIALS) == []
    assert [ledger.entries[number].status for number in range(TRIALS)] == ["finished", "finished", "failed"]


@pytest.mark.parametrize("name", ["trial.json", "epochs.jsonl"])
def test_a_lost_trial_is_found(study: Path, ledger: Ledger, name: str) -> None:
    (study / "trial_00001" / name).unlink()
    assert ledger.faults(study) == ["trial_00001 was lost"]


def test_a_repeated_trial_is_found_although_it_reached_the_same(study: Path, ledger: Ledger) -> None:
    train(study, 1, clean=0.75, seconds=2.0)
    assert ledger.faults(study) == ["trial_00001 was repeated"]


def test_a_changed_trial_is_found_although_it_may_have_been_trained_again(study: Path, ledger: Ledger) -> None:
    ledger.damaged(1, "epochs.jsonl")
    train(study, 1, clean=0.7)
    ((fault),) = ledger.faults(study)
    assert fault.startswith("trial_00001 was changed: ('finished', 0.75, 0.25) became ('finished', 0.7, 0.25)")


def test_a_trial_whose_record_was_damaged_may_be_trained_again_once(study: Path, ledger: Ledger) -> None:
    ledger.damaged(1, "epochs.jsonl")
    TrialFolder(study, 1).epochs_file.write_text("")
    assert ledger.faults(study) == [], "it goes on"
    train(study, 1, clean=0.75, seconds=2.0)
    assert ledger.faults(study) == []
    assert ledger.entries[1].trained_again == 1
    train(study, 1, clean=0.75, seconds=3.0)
    assert ledger.faults(study) == ["trial_00001 was repeated"]


def test_damage_to_an_encoder_excuses_no_second_training(study: Path, ledger: Ledger) -> None:
    ledger.damaged(1, "encoder.safetensors")
    train(study, 1, clean=0.75, seconds=2.0)
    assert ledger.faults(study) == ["trial_00001 was repeated"]


@pytest.mark.parametrize("forgettable", [True, False])
def test_a_trial_is_forgotten_only_where_nothing_told_its_point(study: Path, ledger: Ledger, forgettable: bool) -> None:
    ledger.entries[1].forgettable = forgettable
    (study / "trial_00001").rename(study / "trial_00001.damaged")
    assert ledger.faults(study) == ([] if forgettable else ["trial_00001 was lost"])
    assert ledger.forgotten == ([1] if forgettable else [])


def test_at_the_end_trials_encoders_and_storage_are_counted(study: Path, ledger: Ledger) -> None:
    TrialFolder(study, 1).encoder.unlink()
    train(study, 3, clean=0.1)
    assert ledger.faults_at_the_end(study, trials=TRIALS) == [
        "trial_00003 was not seen to end",
        "there are 4 trials instead of 3",
        "trial_00001 is on the front and its encoder was lost",
        "trial_00003 finished, and Optuna's storage has None",
    ]


def test_a_soak_goes_on_from_what_it_kept(study: Path, ledger: Ledger, tmp_path: Path) -> None:
    ledger.damaged(1, "trial.json")
    state = State("mark", ledger, [RunEntry(1, ["optuna.db empty"], ["worker SIGKILL"], code=143)], ["a fault"])
    state.write(tmp_path / "state.json")
    known = State.read(tmp_path / "state.json")
    assert known == state
    assert known.ledger.entries[1].excused
    found = result(known, trials=TRIALS, seed=0)
    assert (found["damages"], found["exit_codes"]) == ({"optuna.db empty": 1}, {"143": 1})
    assert (found["faults"], found["ended"]) == (["a fault"], {"finished": 2, "failed": 1})
    json.dumps(found)


def test_each_damage_leaves_something_else(study: Path) -> None:
    content = (study / "trial_00000" / "trial.json").read_bytes()
    left = {kind: damage(content, random.Random(0)) for kind, damage in DAMAGES.items()}  # noqa: S311 (no secret)
    assert content not in left.values()
    assert len(set(left.values())) == len(DAMAGES)
