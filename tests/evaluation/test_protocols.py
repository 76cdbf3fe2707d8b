import copy
from typing import Any

import pytest
import torch
from torch import nn

from cfamc_ray.config.trial import EncoderConfig, EvaluationConfig
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.classifier import LinearClassifier, as_pixels
from cfamc_ray.evaluation.protocols import BATCH, Scores, encode, search_scores
from cfamc_ray.method.encoder import SelfSupervisedEncoder

CLASSES = 3
ENCODER = EncoderConfig(width=4, prefeature_width=8, hidden_width=8, embedding_width=4)
EVALUATION = EvaluationConfig(attack_epsilon=0.1, attack_steps=2, attack_images=10)


def images(count: int, seed: int) -> LabelledImages:
    """Noise that is a little brighter in one channel, which is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(count) % CLASSES
    images_NCHW = torch.randint(0, 180, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images_NCHW[torch.arange(count), labels_N] += 30
    return LabelledImages(images_NCHW, labels_N)


PROBE, VALIDATION = images(30, seed=1), images(13, seed=2)


@pytest.fixture
def encoder() -> SelfSupervisedEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SelfSupervisedEncoder(ENCODER)


def scores(encoder: SelfSupervisedEncoder, seed: int = 0, **changes: Any) -> Scores:
    return search_scores(
        encoder,
        PROBE,
        VALIDATION,
        classes=CLASSES,
        config=EVALUATION.model_copy(update=changes),
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("kind", ["prefeature", "backbone"])
def test_accuracies_are_shares_of_the_counts_that_stand_beside_them(encoder: SelfSupervisedEncoder, kind: str) -> None:
    result = scores(encoder, features=kind)
    assert (result.validation_images, result.attacked_images) == (13, 10)
    for accuracy, count in [
        (result.probe_accuracy, 30),
        (result.clean_accuracy, 13),
        (result.robust_accuracy, 10),
    ]:
        assert accuracy * count == pytest.approx(round(accuracy * count), abs=1e-9)
        assert 0 <= accuracy <= 1


@pytest.mark.parametrize(("attack_images", "attacked"), [(1, 1), (12, 12), (13, 13), (1000, 13)])
def test_no_more_images_are_attacked_than_there_are(
    encoder: SelfSupervisedEncoder, attack_images: int, attacked: int
) -> None:
    assert scores(encoder, attack_images=attack_images).attacked_images == attacked


@pytest.mark.parametrize("attack_images", [8, 13])
def test_without_a_ball_robust_accuracy_is_that_of_the_attacked_images_unattacked(
    encoder: SelfSupervisedEncoder, attack_images: int
) -> None:
    robust = scores(encoder, attack_epsilon=0.0, attack_images=attack_images).robust_accuracy
    first = VALIDATION.take(torch.arange(attack_images))
    clean = search_scores(
        encoder, PROBE, first, classes=CLASSES, config=EVALUATION, generator=torch.Generator()
    ).clean_accuracy
    assert robust == clean > 0


def test_the_attack_costs_accuracy_and_a_larger_one_costs_all(encoder: SelfSupervisedEncoder) -> None:
    weak, strong = scores(encoder, attack_images=13), scores(encoder, attack_images=13, attack_epsilon=0.5)
    assert weak.clean_accuracy > weak.robust_accuracy
    assert weak.clean_accuracy == strong.clean_accuracy
    assert strong.robust_accuracy == 0


@pytest.mark.parametrize("training", [True, False])
def test_the_encoder_is_left_as_it_was(encoder: SelfSupervisedEncoder, training: bool) -> None:
    encoder.train(training)
    frozen = encoder.backbone.stem.weight.requires_grad_(False)
    before = copy.deepcopy(encoder.state_dict())
    scores(encoder)
    assert all(module.training is training for module in encoder.modules())
    assert [p for p in encoder.parameters() if not p.requires_grad] == [frozen]
    assert all(p.grad is None for p in encoder.parameters())
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_the_encoder_is_left_as_it_was_even_when_the_evaluation_fails(encoder: SelfSupervisedEncoder) -> None:
    with pytest.raises(IndexError, match="Target 2 is out of bounds"):
        search_scores(encoder, PROBE, VALIDATION, classes=2, config=EVALUATION, generator=torch.Generator())
    assert encoder.training
    assert all(p.requires_grad for p in encoder.parameters())


def test_scores_depend_on_the_generator_and_the_encoder_alone(encoder: SelfSupervisedEncoder) -> None:
    torch.manual_seed(1)
    first = scores(encoder)
    torch.manual_seed(2)
    assert scores(encoder) == first


def test_encoding_in_batches_equals_encoding_at_once(encoder: SelfSupervisedEncoder) -> None:
    many = images(BATCH + 7, seed=3).images_NCHW
    features_NF = encode(LinearClassifier(encoder.eval(), nn.Identity()), many)
    with torch.no_grad():
        torch.testing.assert_close(features_NF, encoder.features(many.float() / 255))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_are_in_the_type_of_the_weights(encoder: SelfSupervisedEncoder, dtype: torch.dtype) -> None:
    pixels_NCHW = as_pixels(torch.tensor([0, 51, 255], dtype=torch.uint8), encoder.to(dtype=dtype))
    assert pixels_NCHW.dtype == dtype
    torch.testing.assert_close(pixels_NCHW, torch.tensor([0, 0.2, 1], dtype=dtype))
