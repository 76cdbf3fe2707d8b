"""What is measured of an encoder's transfer, and the tables of it."""

import math
from typing import Any

import pytest

from benchmarks import shift
from benchmarks.shift import COLUMNS, CORRUPTED, DATA, FEW_LABELS, FINE_TUNED, HOME, accuracies, run_cell, table
from cfamc_ray.config.corruptions import CORRUPTIONS
from cfamc_ray.config.data import DigitsConfig
from cfamc_ray.evaluation.measurement import Measurement, means_of

FEW: dict[str, Any] = {"probe_images": 200, "pretrain_images": 100, "validation_images": 0}


def made(encoder: str, seed: int, clean: float) -> dict[str, Any]:
    curve = [
        {"l2": 0.01, "clean_accuracy": clean, "robust_accuracy": 0.1},
        {"l2": 1.0, "clean_accuracy": clean - 0.1, "robust_accuracy": 0.3},
    ]
    pair = {"clean": clean, "robust": 0.2}
    corrupted = {"clean": clean, "corrupted": 0.3} | {str(kind): 0.3 for kind in CORRUPTIONS}
    by_protocol = {protocol.name: pair for protocol in (*FEW_LABELS, *FINE_TUNED)} | {CORRUPTED.name: corrupted}
    return {"encoder": encoder, "seed": seed, "curves": dict.fromkeys(DATA, curve), HOME: by_protocol}


def test_tables_hold_the_best_of_each_curve_and_paired_differences() -> None:
    robust = [made("cf-amc-ssl, cifar10", seed, 0.4 + seed / 100) for seed in range(3)]
    plain = [made("emp-ssl-crops, cifar10", seed, 0.45 + seed / 100) for seed in range(3)]
    text = table([*robust, *plain])
    assert "| cf-amc-ssl, cifar10 | 41.0 ± 1.0 | 30.0 ± 0.0 |" in text
    assert "| cf-amc-ssl, cifar10 − emp-ssl-crops, cifar10 (95 %) | -5.0 ± 0.0 | +0.0 ± 0.0 |" in text
    assert "| cf-amc-ssl, cifar10 − untrained (95 %) | – | – |" in text
    assert "| cf-amc-ssl, cifar10 | 1, 1, 1 | 1, 1, 1 | 1, 1, 1 |" in text
    assert text.count("\n## ") == len(COLUMNS) + 1


def test_the_mean_over_corruptions_weighs_each_kind_alike() -> None:
    measured = [
        Measurement.clean(100, 50),
        *(Measurement.corrupted("fog", severity, 100, right) for severity, right in ((1, 40), (5, 20))),
        Measurement.corrupted("snow", 1, 100, 10),
    ]
    assert accuracies(means_of(measured)) == pytest.approx({"clean": 0.5, "fog": 0.3, "snow": 0.1, "corrupted": 0.2})


@pytest.mark.long
def test_an_encoder_is_trained_and_judged_by_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = {"width": 8, "prefeature_width": 8, "hidden_width": 8, "embedding_width": 8}
    digits = DigitsConfig(image_size=32, **FEW)
    tiny = shift.SYSTEMS["cf-amc-ssl, cifar10"].with_values(
        {
            **{f"encoder.{key}": value for key, value in widths.items()},
            "data": digits.model_dump(),
            "crops.views": 2,
            "crops.size": 16,
        }
    )
    few = {"images": 20, "attacked_images": 5, "draws": 1}
    quick = [
        FEW_LABELS[0].model_copy(update=few),
        CORRUPTED.model_copy(update=few | {"severities": (1,), "corruptions": ("fog", "contrast")}),
        FINE_TUNED[-1].model_copy(
            update=few | {"labels_per_class": 2, "finetune": FINE_TUNED[-1].finetune.model_copy(update={"epochs": 1})}
        ),
    ]
    monkeypatch.setattr(shift, "SYSTEMS", {"cf-amc-ssl, cifar10": tiny})
    monkeypatch.setattr(shift, "DATA", {HOME: digits})
    monkeypatch.setattr(shift, "PROTOCOLS", quick)
    monkeypatch.setattr(shift, "CURVE", shift.CURVE.model_copy(update={"attacked_images": 20}))
    cell = run_cell("cf-amc-ssl, cifar10", 1)
    assert {(point["l2"]) for point in cell["curves"][HOME]} == {0.001, 0.01, 0.1, 0.3, 1.0}
    found = cell[HOME]
    assert set(found) == {"1 of each", "corruptions", "whole network, adversarial"}
    assert set(found["corruptions"]) == {"clean", "fog", "contrast", "corrupted"}
    assert all(0 <= value <= 1 and math.isfinite(value) for each in found.values() for value in each.values())
