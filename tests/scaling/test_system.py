"""What the system part says: the machine's constants are found again, tables and predictions follow from them."""

import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from cells_by_hand import (
    ACTIVATION,
    COMMUNICATION_SHARE,
    FLOP,
    KEPT,
    LATENCY,
    PARAMETER,
    PER_BYTE,
    PROCESS,
    UPDATE,
    UPDATED,
    WEAK_EFFICIENCY,
    found_of,
    measured,
    scaling,
)
from made_by_hand import study

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.losses import EmpSslConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.work import training_work
from cfamc_ray.scaling.communication import Communication, fit_communication, predict_efficiency
from cfamc_ray.scaling.system import fit_system, predicted, read_costs, system_conclusions, system_tree
from cfamc_ray.store.cells import (
    CellFolder,
    Measured,
    cell_line,
    read_cells,
    strong_efficiency,
    system_table,
)

CONFIG = scaling()


def seconds_of(one: Measured, work: str) -> float:
    return float(median(getattr(one.values.seconds, work)))


def test_the_constants_of_a_machine_are_found_again() -> None:
    (costs,) = fit_system(measured(CONFIG)).costs
    assert costs.seconds_per == pytest.approx(
        {"flop": FLOP, "activation": ACTIVATION, "updated_parameter": UPDATED, "update": UPDATE},
        rel=1e-4,
    )
    assert costs.bytes_per == pytest.approx({"process": PROCESS, "kept_activation": KEPT, "parameter": PARAMETER})
    assert (costs.cells, costs.device, costs.configured) == (8, "CPU, 1 thread", ["auto"])
    for errors in (costs.left_out, costs.larger_half):
        assert list(errors.values()) == pytest.approx([0, 0], abs=1e-4)
    for one in measured(CONFIG):
        if one.cell.workers == 1:
            expected = (one.update_seconds, one.values.peak_memory_bytes)
            assert predicted(costs, one) == pytest.approx(expected, rel=1e-4)


def test_arithmetic_is_not_blamed_for_more_than_a_large_product_would_take() -> None:
    slow = [
        Measured(one.cell, one.values.model_copy(update={"product_flops_per_second": 4e12})) for one in measured(CONFIG)
    ]
    (costs,) = fit_system(slow).costs
    assert costs.seconds_per["flop"] == pytest.approx(0.25e-12)
    assert costs.seconds_per["activation"] > ACTIVATION


def test_errors_of_cells_that_were_left_out_are_those_of_the_noise() -> None:
    draw = np.random.default_rng(0)
    (costs,) = fit_system(measured(CONFIG, lambda: float(np.exp(0.1 * draw.normal())))).costs
    assert 0.01 < costs.left_out["seconds"] < 0.4
    assert 0.01 < costs.left_out["bytes"] < 0.4


def test_too_few_cells_make_no_model_and_other_hardware_another() -> None:
    alone = [one for one in measured(CONFIG) if one.cell.workers == 1]
    assert fit_system(alone[:5]).costs == []
    assert "Too few cells" in system_conclusions(fit_system([]))[0]
    other = [
        Measured(one.cell, one.values.model_copy(update={"device": "H100", "precision": "float32"})) for one in alone
    ]
    assert [(costs.device, costs.precision) for costs in fit_system([*alone, *other]).costs] == [
        ("CPU, 1 thread", "bfloat16"),
        ("H100", "float32"),
    ]


def test_the_table_has_a_row_for_every_cell(tmp_path: Path) -> None:
    folder, cells = CellFolder(tmp_path), CONFIG.cells
    for cell in cells[:-1]:
        folder.write(cell, found_of(cell))
    folder.write(cells[0], {"status": "failed", "reason": "out of memory"})
    table = system_table(CONFIG, folder)
    rows = table.rows
    assert [row["status"] for row in rows] == ["failed", *["finished"] * (len(cells) - 2), "missing"]
    assert rows[0]["reason"] == "out of memory"
    assert [folder.measured(cell) for cell in (cells[0], cells[1], cells[-1])] == [False, True, False]
    assert len(read_cells(CONFIG, folder)) == len(cells) - 2
    columns = table.names
    assert all(set(row) <= set(columns) for row in rows)
    row, found = rows[1], found_of(cells[1])
    assert row["crop_passes_per_second"] == pytest.approx(found["crop_passes"] / found["seconds"]["steps"][0])
    assert row["tflop_per_second"] * 1e12 * found["seconds"]["steps"][0] == pytest.approx(found["flops"])
    assert row["mfu"] == pytest.approx(row["tflop_per_second"])  # of 1 TFLOP/s
    shares = [row[name] for name in columns if name.endswith("_share") and name[:4] not in ("comm", "peak")]
    assert sum(shares) == pytest.approx(1)
    assert row["crops_share"] == 0


def test_a_disturbed_product_is_not_a_cells_peak(tmp_path: Path) -> None:
    folder, (disturbed, *others) = CellFolder(tmp_path), CONFIG.cells
    folder.write(disturbed, {**found_of(disturbed), "product_flops_per_second": 1e9})
    for cell in others:
        folder.write(cell, found_of(cell))
    for row, cell in zip(system_table(CONFIG, folder).rows, CONFIG.cells, strict=True):
        assert row["peak_tflop_per_second"] == pytest.approx(cell.workers)


def test_several_workers_are_compared_with_one() -> None:
    every = measured(CONFIG)
    (pair,) = (one for one in every if one.cell.workers == 2)
    assert pair.communication_share == pytest.approx(COMMUNICATION_SHARE)
    assert pair.weak_efficiency == pytest.approx(WEAK_EFFICIENCY)
    assert strong_efficiency(pair, every) is None  # one worker has not been measured with this minibatch
    config = scaling(grid={"workers": [1, 2]}, vary={})
    one, two = measured(config)
    assert strong_efficiency(two, [one, two]) == pytest.approx(0.5)
    assert (strong_efficiency(one, [one, two]), one.weak_efficiency, one.communication_share) == (None, None, None)


@pytest.mark.parametrize("workers", [2, 5])
def test_the_constants_of_a_connection_are_found_again(workers: int) -> None:
    known = Communication(LATENCY, PER_BYTE)
    sums = [(size, known.all_reduce_seconds(size, workers)) for size in (2**10, 2**18, 2**22)]
    assert fit_communication(workers, sums) == pytest.approx(known)


def test_a_sum_sends_twice_its_bytes_in_buckets_and_a_gathering_those_of_all_others() -> None:
    constants = Communication(1.0, 1e-6)
    assert constants.all_reduce_seconds(1e6, 1) == 0
    assert constants.all_reduce_seconds(1e6, 2) == pytest.approx(2 + 1)
    assert constants.all_reduce_seconds(1e6, 4) == pytest.approx(6 + 1.5)
    assert constants.all_reduce_seconds(60 * 2**20, 2) == pytest.approx(2 * 3 + 60 * 2**20 * 1e-6)
    assert constants.all_gather_seconds(1e6, 4) == pytest.approx(3 + 3)


def test_efficiency_falls_with_workers_from_what_one_takes_alone() -> None:
    (pair,) = (one for one in measured(CONFIG) if one.cell.workers == 2)
    found = predict_efficiency(pair, (1, 2, 8, 512))
    assert (found[0].expected, found[0].exposed) == (1, 1)
    for values in ([one.expected for one in found], [one.exposed for one in found]):
        assert values == sorted(values, reverse=True)
    assert all(one.exposed <= one.expected for one in found)

    trial, updates = pair.cell.trial, pair.values.updates
    alone = seconds_of(pair, "alone") / updates
    embeddings = trial.crops.views * 25 * 8
    loss = (EmpSslConfig().flops(2, 200, 8) - EmpSslConfig().flops(2, 25, 8)) / 2e11
    gathered = 7 * (LATENCY + 4 * embeddings * PER_BYTE)
    summed = 14 * (LATENCY + 4 * pair.values.parameters / 8 * PER_BYTE)
    seen = COMMUNICATION_SHARE * seconds_of(pair, "steps") / updates
    felt = seen / Communication(LATENCY, PER_BYTE).all_reduce_seconds(4 * pair.values.parameters, 2)
    assert found[2].expected == pytest.approx(alone / (alone + loss + gathered + felt * summed))
    assert found[2].exposed == pytest.approx(alone / (alone + loss + gathered + max(felt, 1) * summed))


@pytest.mark.parametrize("share", [0.001, 0.1, 0.3])
def test_the_sum_of_the_gradients_costs_as_much_as_was_measured(share: float) -> None:
    (pair,) = (one for one in measured(CONFIG) if one.cell.workers == 2)
    steps = pair.values.seconds.steps

    def seconds_predicted(shared: float) -> float:
        unsynchronised = [(1 - shared) * taken for taken in steps]
        seconds = pair.values.seconds.model_copy(update={"unsynchronised": unsynchronised})
        one = Measured(pair.cell, pair.values.model_copy(update={"seconds": seconds}))
        return seconds_of(one, "alone") / predict_efficiency(one, [2])[0].expected

    assert seconds_predicted(share) - seconds_predicted(0.0) == pytest.approx(share * steps[0])


def test_the_loss_of_few_images_grows_with_their_square_and_of_many_evenly() -> None:
    assert EmpSslConfig().flops(3, 16, 1024) == pytest.approx(4 * EmpSslConfig().flops(3, 8, 1024), rel=0.01)
    assert EmpSslConfig().flops(3, 4096, 64) == pytest.approx(2 * EmpSslConfig().flops(3, 2048, 64), rel=0.01)


class TestReadCosts:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        (tmp_path / "fits.json").write_text(json.dumps(system_tree(fit_system(measured(CONFIG)))))
        return tmp_path

    @staticmethod
    def like(cell_values: dict[str, Any], **resources: Any) -> tuple[StudyConfig, TrialConfig]:
        trial = CONFIG.trial.with_values(cell_values)
        config = study(trial=trial.model_dump(), resources=resources, space={"seed": {"choice": [0, 1]}})
        return config, trial

    def test_they_tell_the_time_and_memory_of_a_trial(self, run: Path) -> None:
        config, trial = self.like({"crops.views": 6, "pretraining.epochs": 4})
        for path in (run, run / "fits.json"):
            model, work = read_costs(path, config, training_work), training_work(trial)
            rates = (FLOP * work.flops, ACTIVATION * work.activations, trial.updates * UPDATED * work.parameters)
            evaluating = trial.measurements * work.evaluation_flops / work.flops * sum(rates[:2])
            expected = sum(rates) + trial.updates * UPDATE + evaluating
            assert model.seconds(trial) == pytest.approx(expected, rel=1e-4)
            expected = PROCESS + KEPT * max(work.kept, work.evaluation_kept) + PARAMETER * work.parameters
            assert model.memory_bytes(trial) == pytest.approx(expected, rel=1e-4)

    def test_two_workers_share_the_crops(self, run: Path) -> None:
        config, trial = self.like({"crops.views": 6}, workers_per_trial=2)
        alone = read_costs(run, self.like({})[0], training_work).seconds(trial)
        shared = read_costs(run, config, training_work).seconds(trial)
        assert alone is not None
        assert shared is not None
        assert alone / 2 < shared < alone

    @pytest.mark.parametrize(
        ("values", "resources", "message"),
        [
            ({}, {"cpus_per_worker": 4}, "no model for CPUs, 4 threads a worker .* but of CPU, 1 thread, bfloat16"),
            ({}, {"gpus_per_worker": 1}, "no model for GPUs"),
            ({"pretraining.precision": "float32"}, {}, "with pretraining.precision float32"),
        ],
    )
    def test_other_workers_or_arithmetic_are_refused(
        self, run: Path, values: dict[str, Any], resources: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            read_costs(run, self.like(values, **resources)[0], training_work)

    @pytest.mark.parametrize("text", [None, "[]", "{}", "nonsense"])
    def test_what_holds_no_fits_is_refused(self, tmp_path: Path, text: str | None) -> None:
        if text is not None:
            (tmp_path / "fits.json").write_text(text)
        with pytest.raises(InputError, match="no fits of a scaling study's system part"):
            read_costs(tmp_path, self.like({})[0], training_work)


def test_a_line_says_what_a_cell_took_or_why_it_failed() -> None:
    (pair,) = (one for one in measured(CONFIG) if one.cell.workers == 2)
    assert cell_line(pair.cell, found_of(pair.cell)).startswith("2 workers, views 2, ")
    assert "crop passes a second" in cell_line(pair.cell, found_of(pair.cell))
    assert cell_line(pair.cell, {"status": "failed", "reason": "it burned"}).endswith("failed: it burned")
