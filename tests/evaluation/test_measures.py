"""Measures: their closed forms, and what a trial and a study make of a measure."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from random_encoders import random_encoder
from tiny_trials import tiny_config, tiny_trial
from torch import Tensor
from torch.nn import functional as F

from cfamc_ray.config.measures import MEASURES, AdversarialDistanceConfig, CropDistanceConfig, LocalLipschitzConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.batches import frozen
from cfamc_ray.evaluation.measures import (
    cosine_distance,
    effective_rank,
    largest_change,
    pair_distance,
    relative_change,
)
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.method.parallel import ALONE
from cfamc_ray.metrics import METRICS

EPSILON = 4 / 255


@given(st.integers(1, 6), st.integers(6, 12), st.integers(0, 1000))
def test_features_of_equal_strength_in_r_directions_have_rank_r(rank: int, images: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(images, images, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    assert effective_rank(3 * left[:, :rank] @ right[:rank]) == pytest.approx(rank)


def test_unequal_strengths_count_by_their_entropy() -> None:
    shares = [0.5, 0.25, 0.25]
    entropy = -sum(share * math.log(share) for share in shares)
    assert effective_rank(torch.diag(torch.tensor(shares, dtype=torch.float64))) == pytest.approx(math.exp(entropy))


def test_collapsed_features_have_no_or_one_rank() -> None:
    assert effective_rank(torch.zeros(5, 3)) == 0
    assert effective_rank(torch.ones(5, 3)) == pytest.approx(1)


def test_a_trial_reports_a_measure_where_it_is_asked_for_and_where_it_evaluates() -> None:
    changes = {"evaluation.measures": [{"name": "effective_rank", "features": "backbone"}]}
    trial = tiny_trial(tiny_config(**changes, **{"evaluation.every_epochs": 2}))
    first, second = (row.row() for row in trial)
    assert "effective_rank" not in first
    assert 1 <= second["effective_rank"] <= 10
    assert {"invariance", "coding_rate"} <= second.keys()
    assert not any(isinstance(value, dict) for value in second.values())  # each is a column of its own
    assert "effective_rank" not in tiny_trial().run_epoch().row()


def test_a_study_may_optimise_what_its_trials_measure() -> None:
    tree = {"name": "a", "objectives": {"effective_rank": "maximize"}}
    assert METRICS["effective_rank"].direction == "maximize"
    with pytest.raises(ValidationError, match=r"no trial measures effective_rank: write it under .*measures"):
        StudyConfig.model_validate(tree)
    config = StudyConfig.model_validate({**tree, "trial": {"evaluation": {"measures": ["effective_rank"]}}})
    assert StudyConfig.model_validate(config.model_dump(mode="json")) == config


@given(st.integers(0, 1000))
def test_the_largest_change_of_a_linear_feature_is_the_dual_norm_of_its_weights(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight_P = torch.randn(48, generator=generator, dtype=torch.float64)
    images_NCHW = 0.1 + 0.8 * torch.rand(5, 3, 4, 4, generator=generator, dtype=torch.float64)
    start_NCHW = EPSILON * (2 * torch.rand(5, 3, 4, 4, generator=generator, dtype=torch.float64) - 1)

    def features_of(pixels_NCHW: Tensor) -> Tensor:
        return pixels_NCHW.flatten(1) @ weight_P[:, None]

    change_N = largest_change(features_of, images_NCHW, start_NCHW, relative_change, epsilon=EPSILON, steps=3)
    expected_N = EPSILON * weight_P.abs().sum() / features_of(images_NCHW).abs().squeeze(1)
    assert change_N.tolist() == pytest.approx(expected_N.tolist())
    in_l2_N = largest_change(
        features_of, images_NCHW, start_NCHW, relative_change, epsilon=EPSILON, norm="l2", steps=20
    )
    largest_N = EPSILON * weight_P.norm() / features_of(images_NCHW).abs().squeeze(1)
    assert bool((in_l2_N <= largest_N * (1 + 1e-9)).all())
    assert bool((in_l2_N >= 0.9 * largest_N).all())


def test_an_ascent_stays_within_the_ball_and_the_pixels_and_begins_at_its_start() -> None:
    seen: list[Tensor] = []
    images_NCHW = torch.tensor([0.0, 1.0, 0.5]).view(1, 3, 1, 1)
    start_NCHW = EPSILON * torch.ones(1, 3, 1, 1)

    def features_of(pixels_NCHW: Tensor) -> Tensor:
        seen.append(pixels_NCHW.detach())
        return pixels_NCHW.flatten(1)

    largest_change(features_of, images_NCHW, start_NCHW, relative_change, epsilon=EPSILON, steps=4)
    moved = torch.cat(seen) - images_NCHW
    assert moved[1].flatten().tolist() == pytest.approx([EPSILON, 0, EPSILON])
    assert moved.abs().max() == pytest.approx(EPSILON)
    assert len(seen) == 1 + 4 + 1, "the images, each point where a step begins, and the last point"


@given(st.integers(2, 6), st.integers(0, 1000))
def test_pair_distance_is_the_mean_over_all_pairs_and_of_unit_vectors_half_their_squared_distance(
    views: int, seed: int
) -> None:
    features_NVF = torch.randn(3, views, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pairs = [(v, u) for v in range(views) for u in range(v)]
    each = torch.stack([cosine_distance(features_NVF[:, v], features_NVF[:, u]) for v, u in pairs])
    assert pair_distance(features_NVF).tolist() == pytest.approx(each.mean(0).tolist())
    z_NVF = F.normalize(features_NVF, dim=-1)
    squared = torch.stack([(z_NVF[:, v] - z_NVF[:, u]).square().sum(-1) for v, u in pairs])
    assert each.flatten().tolist() == pytest.approx((squared / 2).flatten().tolist())


@pytest.fixture(scope="module")
def encoder() -> SelfSupervisedEncoder:
    return random_encoder()


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images_NCHW = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return LabelledImages(images_NCHW, torch.arange(12) % 2)


CHANGES = [LocalLipschitzConfig(), AdversarialDistanceConfig(), CropDistanceConfig(views=3)]


@pytest.mark.parametrize("features", ["embedding", "prefeature", "backbone"])
@pytest.mark.parametrize("config", CHANGES, ids=lambda config: config.name)
def test_a_change_of_features_does_not_depend_on_the_batch_and_reads_its_number_of_images(
    encoder: SelfSupervisedEncoder,
    images: LabelledImages,
    config: LocalLipschitzConfig | AdversarialDistanceConfig | CropDistanceConfig,
    features: str,
) -> None:
    def measured(*, count: int, at_once: int) -> float:
        measure = config.model_copy(update={"features": features, "images": count}).build()
        with frozen(encoder):
            value: float = measure(encoder, images, epsilon=EPSILON, norm="linf", at_once=at_once, workers=ALONE)
        return value

    value = measured(count=8, at_once=12)
    assert value > 0
    assert measured(count=8, at_once=3) == pytest.approx(value, rel=1e-3)
    assert measured(count=4, at_once=12) != pytest.approx(value, rel=1e-6)


def test_a_larger_ball_moves_the_features_further(encoder: SelfSupervisedEncoder, images: LabelledImages) -> None:
    with frozen(encoder):
        distance = [
            AdversarialDistanceConfig().build()(
                encoder, images, epsilon=epsilon, norm="linf", at_once=12, workers=ALONE
            )
            for epsilon in (0.0, EPSILON, 4 * EPSILON)
        ]
        undefined = LocalLipschitzConfig().build()(encoder, images, epsilon=0.0, norm="linf", at_once=12, workers=ALONE)
    assert distance[0] == pytest.approx(0, abs=1e-6)
    assert distance[0] < distance[1] < distance[2] <= 2
    assert math.isnan(undefined), "0 / 0"


def test_a_trial_records_all_measures_beside_the_terms_of_its_loss_which_stay_as_they_were() -> None:
    plain = tiny_trial().run_epoch().row()
    row = (
        tiny_trial(tiny_config(**{"evaluation.measures": [{"name": name} for name in MEASURES.classes]}))
        .run_epoch()
        .row()
    )
    assert plain["invariance"] == row["invariance"]
    assert plain["coding_rate"] == row["coding_rate"]
    assert row.keys() - plain.keys() == set(MEASURES.classes)
    assert row["local_lipschitz"] > 0
    assert 0 < row["adversarial_distance"] <= 2
    assert 0 < row["crop_distance"] <= 2
