"""The study that trains the front again with fresh seeds, and what its trials and their tests say of the front."""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from itertools import count, islice
from pathlib import Path

from cfamc_ray.config.components import branch
from cfamc_ray.config.ranges import Choice
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import lay_trials
from cfamc_ray.front.candidates import Candidates, candidates, without_seed
from cfamc_ray.front.confirmation import TESTED, Confirmation, FreshRun, Key, attainment, confirm, confirmation_table
from cfamc_ray.front.expectation import as_measured, expected
from cfamc_ray.host.files import write_text
from cfamc_ray.store.layout import ATTAINMENT, CONFIRM, CONFIRM_TABLE
from cfamc_ray.store.records import TrialFolder, TrialRecord, read_trials
from cfamc_ray.store.tables import Column, Table, metric_column
from cfamc_ray.store.tested import PointTest

LAST_MEASURED = {"pgd20": "pgd_margin", "autoattack": "autoattack"}
"""Id of the last attack that a protocol runs for each attack of `confirm`."""


def find_finalists(config: StudyConfig, searched: Sequence[TrialRecord]) -> Candidates:
    """The candidates that the key `confirm` of a study asks for, with their measured values.

    They are chosen by what a model expects of the trials, so that they are good points rather than lucky ones.
    Arguments as for `confirming_study`.
    """
    assert config.confirm is not None
    limits = config.confirm
    found = candidates(config, expected(config, searched), tolerance=limits.tolerance, points=limits.points)
    return Candidates(*([as_measured(searched, point) for point in points] for points in found))


def confirming_study(
    config: StudyConfig, searched: Sequence[TrialRecord], trained: Sequence[TrialRecord]
) -> StudyConfig | None:
    """A study of every candidate with every fresh seed, seed by seed; None without a candidate.

    Operating points of one trial share its encoders: each point of the space is trained once with each seed, and
    evaluated once, after its last epoch. Time is not limited, for in the search each of them has finished in time.

    Args:
        config: of the study whose front is confirmed.
        searched: its trials.
        trained: trials of an earlier confirmation, which are not trained again.
    """
    assert config.confirm is not None
    finalists = {without_seed(record): record.point for record in find_finalists(config, searched).chosen}
    if not finalists:
        return None
    seeds = fresh_seeds(config, searched, config.confirm.seeds)
    points = [{**point, "seed": seed} for seed in seeds for point in finalists.values()]
    others = sum(record.point not in points for record in trained)
    tree = config.model_dump(mode="json") | {
        "name": CONFIRM,
        "question": f"What of the front of {config.name} is luck?",
        "search": {"sampler": "listed"},
        "budget": {"trials": len(points) + others},
        "keep_encoders": "all",
        "loggers": [],
        "start_from": points,
    }
    tree["space"] = tree["space"] | {"seed": Choice(choice=seeds)}
    tree["resources"]["minutes_per_trial"] = None
    longest = max(config.trial_at(point).pretraining.epochs for point in points)
    tree["trial"] = lay_trials(tree["trial"], branch("evaluation.every_epochs", longest))
    return StudyConfig.model_validate(tree)


def fresh_seeds(config: StudyConfig, searched: Sequence[TrialRecord], number: int) -> list[int]:
    """The smallest seeds that no searched trial had."""
    used = {config.trial.seed, *(int(record.point.get("seed", config.trial.seed)) for record in searched)}
    return list(islice((seed for seed in count() if seed not in used), number))


def untested_strengths(config: StudyConfig, folder: Path) -> dict[int, list[float | None]]:
    """L2 strengths of candidates with which encoders of the confirmation are still to be tested, by trial number.

    Args:
        config: of the study whose front is confirmed.
        folder: folder of that study.
    """
    needed: dict[Hashable, list[float | None]] = defaultdict(list)
    for record in find_finalists(config, read_trials(folder)).chosen:
        needed[without_seed(record)].append(record.l2)
    inner, untested = folder / CONFIRM, {}
    for record in read_trials(inner):
        tests = _tests(config, inner, record)
        missing = [l2 for l2 in needed.get(without_seed(record), []) if l2 not in tests]
        if missing and record.status == "finished":
            untested[record.number] = missing
    return untested


def _tests(config: StudyConfig, inner: Path, record: TrialRecord) -> dict[float | None, PointTest]:
    """Tests of an encoder by L2 strength, without those of another protocol than `confirm` asks for now."""
    assert config.confirm is not None
    tests = TrialFolder(inner, record.number).read_tests()
    evaluation = config.trial_at(record.point).evaluation
    asked = {l2: config.confirm.protocol(evaluation, l2).digest for l2 in tests}
    return {l2: test for l2, test in tests.items() if test.protocol in ("", asked[l2])}


def confirmed_front(config: StudyConfig, folder: Path) -> list[Confirmation]:
    """What the fresh seeds say of each candidate so far."""
    assert config.confirm is not None
    finalists, inner = find_finalists(config, read_trials(folder)).chosen, folder / CONFIRM
    fresh = [(record, _tests(config, inner, record)) for record in read_trials(inner)]
    runs: dict[Key, list[FreshRun]] = {
        finalist.key: [
            _fresh_run(config, record, tests[finalist.l2])
            for record, tests in fresh
            if without_seed(record) == without_seed(finalist) and finalist.l2 in tests
        ]
        for finalist in finalists
    }
    return confirm(config.objectives, finalists, runs, attacks=config.confirm.attacks)


def _fresh_run(config: StudyConfig, record: TrialRecord, test: PointTest) -> FreshRun:
    assert config.confirm is not None
    attacks: dict[str, float] = {
        name: test.accuracies.get(LAST_MEASURED[name], math.nan) for name in config.confirm.attacks
    }
    tested = {
        "clean_accuracy": test.accuracies.get("none", math.nan),
        "robust_accuracy": attacks[config.confirm.attacks[-1]],
    }
    others = {name: record.value(name) for name in config.objectives if name not in TESTED}
    points = [record] if test.l2 is None else record.each_point(TESTED)
    again = {name: point.value(name) for point in points if point.l2 == test.l2 for name in TESTED}
    return FreshRun(int(record.point["seed"]), {**others, **tested, **attacks}, again)


def write_confirmation(config: StudyConfig, folder: Path, confirmed: Sequence[Confirmation]) -> None:
    """Write confirm.csv, one row per candidate, and attainment.csv, the surfaces that 20, 50 and 80 % of seeds reach.

    A surface needs two or three objectives, and seeds with which every candidate was tested.
    """
    for name, table in (
        (CONFIRM_TABLE, confirmation_table(confirmed, config)),
        (ATTAINMENT, _attainment_table(config, confirmed)),
    ):
        if table.rows:
            write_text(folder / name, table.csv())


def _attainment_table(config: StudyConfig, confirmed: Sequence[Confirmation]) -> Table:
    columns = [Column("attained_by", unit="fraction"), *map(metric_column, config.objectives)]
    rows: list[dict[str, float]] = []
    common = set.intersection(*(set(one.fresh_seeds) for one in confirmed)) if confirmed else set()
    if common and len(config.objectives) in (2, 3):
        fronts = [[_tested_with(one, seed, config.objectives) for one in confirmed] for seed in sorted(common)]
        rows = [
            {"attained_by": level, **dict(zip(config.objectives, map(float, point), strict=True))}
            for level, points in attainment(config.objectives, fronts).items()
            for point in points
        ]
    return Table("attainment", "Attainment surfaces", columns, rows)


def _tested_with(one: Confirmation, seed: int, metrics: Iterable[str]) -> list[float]:
    """A candidate's values on test images with one of its fresh seeds."""
    place = one.fresh_seeds.index(seed)
    return [one.tested[name].values[place] for name in metrics]
