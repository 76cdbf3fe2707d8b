"""Protocols on few labels and under corruptions: which images, how often, and what is averaged."""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_protocols import CLASSES, CROPS, ENCODER, L2, TEST, TRAIN, tiny

from cfamc_ray.config.corruptions import CORRUPTIONS
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.heads import HeadConfig
from cfamc_ray.data.corruptions import corrupt
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.stratification import balanced_draw
from cfamc_ray.evaluation.batches import predicted_right
from cfamc_ray.evaluation.fitting import fit_classifier
from cfamc_ray.evaluation.measurement import Measurement, corruption_accuracy, means_of
from cfamc_ray.evaluation.protocols import run_protocol
from cfamc_ray.intervals import wilson_interval
from cfamc_ray.method.encoder import SelfSupervisedEncoder


@pytest.fixture
def encoder() -> SelfSupervisedEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SelfSupervisedEncoder(ENCODER)


def run(encoder: SelfSupervisedEncoder, training: LabelledImages = TRAIN, **keys: Any) -> Iterator[Measurement]:
    return run_protocol(encoder, training, TEST, classes=CLASSES, protocol=tiny(**keys), crops=CROPS)


def test_each_draw_is_measured_as_if_its_images_were_all(encoder: SelfSupervisedEncoder) -> None:
    found = list(run(encoder, labels_per_class=4, draws=3, seed=5))
    assert [each.draw for each in found] == [0] * 5 + [1] * 5 + [2] * 5
    for draw in range(3):
        alone = TRAIN.take(balanced_draw(TRAIN.labels_N, 4, 5, draw))
        (expected, *_) = run(encoder, alone, seed=5)
        assert replace(expected, draw=draw) == found[5 * draw]
    assert len({each.right for each in found if each.epsilon == 0}) > 1
    assert found == list(run(encoder, labels_per_class=4, draws=3, seed=5))


def test_as_many_labels_as_there_are_give_what_all_labels_give_up_to_their_order(
    encoder: SelfSupervisedEncoder,
) -> None:
    (few, *_), (every, *_) = run(encoder.double(), labels_per_class=20, draws=1), run(encoder.double())
    assert few.right == every.right


def test_more_labels_than_a_class_has_are_refused_with_the_class_and_the_number(encoder: SelfSupervisedEncoder) -> None:
    kept = torch.cat([(TRAIN.labels_N != 1).nonzero().flatten(), (TRAIN.labels_N == 1).nonzero().flatten()[:7]])
    training = TRAIN.take(kept)
    message = "labels_per_class 8: of the 47 training images on which heads are fitted, only 7 belong to class 1: set "
    with pytest.raises(InputError, match=message + "labels_per_class to at most 7"):
        next(run(encoder, training, labels_per_class=8))
    next(run(encoder, training, labels_per_class=7))
    with pytest.raises(InputError, match="only 0 belong to class 2"):
        next(run(encoder, TRAIN.take((TRAIN.labels_N < 2).nonzero().flatten()), labels_per_class=1))


def test_means_are_over_draws_with_their_spread_and_the_interval_of_the_images(encoder: SelfSupervisedEncoder) -> None:
    found = list(run(encoder, labels_per_class=2, draws=4))
    means = means_of(found)
    assert [(mean.of.attack, mean.of.epsilon) for mean in means] == [(each.attack, each.epsilon) for each in found[:5]]
    for place, mean in enumerate(means):
        accuracies = [each.accuracy for each in found[place::5]]
        assert mean.accuracies == tuple(accuracies)
        assert mean.mean == pytest.approx(sum(accuracies) / 4)
        assert mean.spread == pytest.approx(statistics.stdev(accuracies))
        assert mean.interval == wilson_interval(mean.mean * len(TEST), len(TEST))
        assert mean.record()["draws"] == 4
        assert {"right", "draw"} & mean.record().keys() == set()
    (alone, *_) = means_of(found[:1])
    assert (alone.mean, alone.spread, alone.interval) == (found[0].accuracy, None, found[0].interval)


def test_corrupted_images_are_classified_by_the_head_of_the_clean_ones(encoder: SelfSupervisedEncoder) -> None:
    clean, *found = run(encoder, corruptions=["fog", "contrast"], severities=[1, 5], epsilons=[], seed=2, images=33)
    assert [(each.corruption, each.severity) for each in found] == [
        ("fog", 1),
        ("fog", 5),
        ("contrast", 1),
        ("contrast", 5),
    ]
    classifier = fit_classifier(
        encoder.eval().requires_grad_(False),
        TRAIN,
        classes=CLASSES,
        protocol=tiny(head=HeadConfig(l2=(L2,)).model_dump()),
        views=None,
        generator=torch.Generator(),
    )
    for each in found:
        assert each.corruption is not None
        assert each.severity is not None
        corrupted = corrupt(TEST.images_NCHW[:33], each.corruption, each.severity, seed=2)
        right_N = predicted_right(classifier, LabelledImages(corrupted, TEST.labels_N[:33]))
        assert (each.right, each.images) == (int(right_N.sum()), 33)
        assert (each.attack, each.epsilon) == ("none", 0)
    assert {each.right for each in found} != {clean.right}, "corruptions that change nothing show nothing"


def test_corruptions_change_nothing_that_is_measured_beside_them(encoder: SelfSupervisedEncoder) -> None:
    plain = list(run(encoder))
    beside = list(run(encoder, corruptions=list(CORRUPTIONS)))
    assert [each for each in beside if each.corruption is None] == plain
    corrupted = [each for each in beside if each.corruption]
    assert len(corrupted) == 75
    assert beside[1:76] == corrupted
    mean = corruption_accuracy(means_of(beside))
    assert mean == pytest.approx(sum(each.accuracy for each in corrupted) / 75)
    assert corruption_accuracy(means_of(plain)) is None


def test_the_label_of_a_corruption_is_in_words() -> None:
    found = Measurement.corrupted("jpeg_compression", 3, 10, 5)
    assert (found.title, found.accuracy) == ("jpeg compression, severity 3", 0.5)
