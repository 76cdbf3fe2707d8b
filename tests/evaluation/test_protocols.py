import copy
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cfamc_ray.config.attacks import AttackConfig, MarginsConfig, PgdConfig
from cfamc_ray.config.components import lay
from cfamc_ray.config.confirm import ConfirmConfig
from cfamc_ray.config.data import DataConfig, parse_data
from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.config.heads import HeadConfig, ProbeConfig
from cfamc_ray.config.method import CropsConfig
from cfamc_ray.config.protocol import PROTOCOLS, ProtocolConfig
from cfamc_ray.cost import work as cost
from cfamc_ray.cost.counting import pixel_gradient
from cfamc_ray.cost.work import BATCH
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.splits import load_splits, load_test
from cfamc_ray.evaluation import attacks, autoattack, batches, margins
from cfamc_ray.evaluation.attacks import AttackInvalid, pgd
from cfamc_ray.evaluation.batches import encode, predicted_right, still_right
from cfamc_ray.evaluation.classifier import EachCrop, LinearClassifier, as_pixels, draw_views
from cfamc_ray.evaluation.fitting import fit_classifier
from cfamc_ray.evaluation.measurement import Measurement
from cfamc_ray.evaluation.probe import default_head, fit_path
from cfamc_ray.evaluation.protocols import measure_on, run_protocol
from cfamc_ray.evaluation.scores import Scores, search_scores
from cfamc_ray.method.encoder import SelfSupervisedEncoder

CLASSES = 3
ENCODER = EncoderConfig(width=4, prefeature_width=8, hidden_width=8, embedding_width=4)
L2 = 1e-2
EVALUATION = EvaluationConfig(
    head=ProbeConfig(l2=(L2,)), epsilon=0.1, attack=PgdConfig(steps=2), attacked_images=10, interim_attacked_images=4
)


def images(count: int, seed: int, *, signal: int = 30) -> LabelledImages:
    """Noise that is a little brighter in one channel, which is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(count) % CLASSES
    images_NCHW = torch.randint(0, 180, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images_NCHW[torch.arange(count), labels_N] += signal
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
    result = scores(encoder, head=ProbeConfig.model_validate({"features": kind}))
    assert (result.validation_images, result.attacked_images) == (13, 10)
    assert [point.l2 for point in result.points] == [1e-3, 1e-2, 1e-1, 3e-1, 1]
    for point in result.points:
        for accuracy, count in [
            (point.probe_accuracy, 30),
            (point.clean_accuracy, 13),
            (point.robust_accuracy, 10),
        ]:
            assert accuracy * count == pytest.approx(round(accuracy * count), abs=1e-9)
            assert 0 <= accuracy <= 1
    sums = [point.clean_accuracy + point.robust_accuracy for point in result.points]
    assert result.balanced == result.points[sums.index(max(sums))], "of equal ones the weakest strength"


@pytest.mark.parametrize(("attacked_images", "attacked"), [(1, 1), (12, 12), (13, 13), (1000, 13)])
def test_no_more_images_are_attacked_than_there_are(
    encoder: SelfSupervisedEncoder, attacked_images: int, attacked: int
) -> None:
    assert scores(encoder, attacked_images=attacked_images).attacked_images == attacked


@pytest.mark.parametrize("attacked_images", [8, 13])
def test_without_a_ball_robust_accuracy_is_that_of_the_attacked_images_unattacked(
    encoder: SelfSupervisedEncoder, attacked_images: int
) -> None:
    robust = scores(encoder, epsilon=0.0, attacked_images=attacked_images).balanced.robust_accuracy
    first = VALIDATION.take(torch.arange(attacked_images))
    clean = search_scores(
        encoder, PROBE, first, classes=CLASSES, config=EVALUATION, generator=torch.Generator()
    ).balanced.clean_accuracy
    assert robust == clean > 0


def test_the_attack_costs_accuracy_and_a_larger_one_costs_all(encoder: SelfSupervisedEncoder) -> None:
    (weak,), (strong,) = (scores(encoder, attacked_images=13, epsilon=epsilon).points for epsilon in (0.1, 0.5))
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
    many = images(BATCH + 7, seed=3).images_NCHW[:]
    features_NF = encode(LinearClassifier(encoder.eval(), nn.Identity()), many)
    with torch.no_grad():
        torch.testing.assert_close(features_NF, encoder.features(many.float() / 255))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_are_in_the_type_of_the_weights(encoder: SelfSupervisedEncoder, dtype: torch.dtype) -> None:
    pixels_NCHW = as_pixels(torch.tensor([0, 51, 255], dtype=torch.uint8), encoder.to(dtype=dtype))
    assert pixels_NCHW.dtype == dtype
    torch.testing.assert_close(pixels_NCHW, torch.tensor([0, 0.2, 1], dtype=dtype))


TRAIN, TEST = images(60, seed=5, signal=70), images(40, seed=6, signal=70)
CROPS = CropsConfig(size=8)
WHOLE = CropsConfig(size=8, scale=(1, 1), ratio=(1, 1), flip_probability=0)
SMALL, LARGE = 0.01, 0.02
TINY = ProtocolConfig(
    name="tiny",
    epsilons=(SMALL, LARGE),
    head=HeadConfig(l2=(L2,)),
    attack=PgdConfig(steps=2, step_size=0.01, loss="cross_entropy", every_step=False),
    autoattack_images=0,
    autoattack_epsilons=(),
)


def tiny(**changes: Any) -> ProtocolConfig:
    """The tiny protocol with other keys; a head or an attack that is given as a mapping keeps its other keys."""
    return ProtocolConfig.model_validate(lay(ProtocolConfig, TINY.model_dump(), changes))


def start(
    encoder: SelfSupervisedEncoder, protocol: ProtocolConfig = TINY, crops: CropsConfig = CROPS
) -> Iterator[Measurement]:
    return run_protocol(encoder, TRAIN, TEST, classes=CLASSES, protocol=protocol, crops=crops)


def measured(
    encoder: SelfSupervisedEncoder, protocol: ProtocolConfig = TINY, crops: CropsConfig = CROPS
) -> list[Measurement]:
    return list(start(encoder, protocol, crops))


class Calls(list[dict[str, Any]]):
    """Stands for an attack and keeps what it was called with; without a way to attack it leaves all images alone."""

    def __init__(self, attack: Any = lambda target, images, labels, **_: images) -> None:
        super().__init__()
        self.attack = attack

    def __call__(self, target: nn.Module, images: Tensor, labels: Tensor, **settings: Any) -> Tensor:
        self.append({"target": target, "images": images, "labels": labels, **settings})
        adversarial: Tensor = self.attack(target, images, labels, **settings)
        return adversarial

    def of(self, name: str) -> list[Any]:
        return [call[name] for call in self]


@pytest.fixture
def pgd_calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls(pgd)
    monkeypatch.setattr(attacks, "pgd", calls)
    return calls


@pytest.fixture
def autoattack_calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr(autoattack, "autoattack", calls)
    return calls


@pytest.mark.parametrize("kind", ["prefeature", "backbone"])
@pytest.mark.parametrize("count", [9, 40, 99])
def test_the_clean_count_is_that_of_a_head_fitted_by_hand(
    encoder: SelfSupervisedEncoder, kind: str, count: int
) -> None:
    clean = next(start(encoder, tiny(images=count, head={"features": kind})))
    encoder.eval()
    with torch.no_grad():
        train_NF, test_NF = (encoder.features(part.images_NCHW[:] / 255, kind=kind) for part in (TRAIN, TEST))
    head = fit_path(train_NF, TRAIN.labels_N, classes=CLASSES, strengths=[L2], tolerance=1e-4, iterations=200)[0]
    right_N = (head(test_NF).argmax(-1) == TEST.labels_N)[:count]
    assert clean == Measurement.clean(len(right_N), int(right_N.sum()))
    assert 0 < clean.right < len(right_N)


def test_each_radius_is_measured_attack_by_attack_after_the_clean_images(
    encoder: SelfSupervisedEncoder, autoattack_calls: Calls
) -> None:
    results = measured(encoder, tiny(autoattack_images=8, autoattack_epsilons=(LARGE,), attacked_images=30))
    assert [(found.attack, found.after, found.epsilon, found.images) for found in results] == [
        ("none", (), 0, 40),
        ("pgd", (), SMALL, 30),
        ("pgd_margin", ("pgd",), SMALL, 30),
        ("pgd", (), LARGE, 30),
        ("pgd_margin", ("pgd",), LARGE, 30),
        ("autoattack", ("pgd", "pgd_margin"), LARGE, 8),
    ]
    assert [found.title for found in results[-3:]] == ["PGD-2", "+ PGD-2 on the margin", "+ AutoAttack"]
    assert autoattack_calls.of("epsilon") == [LARGE]


def test_without_its_margin_check_a_protocol_has_pgd_alone(encoder: SelfSupervisedEncoder) -> None:
    assert [found.attack for found in measured(encoder, tiny(margin_check=False))] == ["none", "pgd", "pgd"]


@pytest.mark.parametrize(
    "changes",
    [
        {"autoattack_images": 0, "autoattack_epsilons": (SMALL, LARGE)},
        {"autoattack_images": 5, "autoattack_epsilons": ()},
    ],
    ids=["no images", "no radius"],
)
def test_autoattack_does_not_run_where_it_is_not_asked_for(
    encoder: SelfSupervisedEncoder, autoattack_calls: Calls, changes: dict[str, Any]
) -> None:
    assert "autoattack" not in [found.attack for found in measured(encoder, tiny(**changes))]
    assert not autoattack_calls


@pytest.mark.parametrize("autoattack_images", [8, 30, 500])
def test_an_attack_is_shown_what_those_before_it_left_right_and_nothing_else(
    encoder: SelfSupervisedEncoder, pgd_calls: Calls, autoattack_calls: Calls, autoattack_images: int
) -> None:
    protocol = tiny(
        attacked_images=30, epsilons=(LARGE,), autoattack_epsilons=(LARGE,), autoattack_images=autoattack_images
    )
    clean, by_pgd, by_margin, by_autoattack = measured(encoder, protocol)
    assert (by_pgd.images, by_margin.images, by_autoattack.images) == (30, 30, min(30, autoattack_images))
    assert clean.right > by_pgd.right > by_margin.right >= by_autoattack.right > 0
    shown_to_pgd, shown_to_margin = (
        {tuple(row) for row in shown.flatten(1).tolist()} for shown in pgd_calls.of("images")
    )
    (shown_to_autoattack,) = (
        {tuple(row) for row in shown.flatten(1).tolist()} for shown in autoattack_calls.of("images")
    )
    first = {tuple(row) for row in (TEST.images_NCHW[:30] / 255).flatten(1).tolist()}
    assert first > shown_to_pgd > shown_to_margin >= shown_to_autoattack
    assert len(shown_to_margin) == by_pgd.right
    assert len(shown_to_autoattack) == by_autoattack.right  # it was given none to break
    if autoattack_images >= 30:
        assert len(shown_to_autoattack) == by_margin.right


def test_what_an_attack_breaks_is_counted_at_its_radius_alone(
    encoder: SelfSupervisedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_all(target: LinearClassifier, images: Tensor, labels: Tensor, *, epsilon: float, **_: Any) -> Tensor:
        strong = pgd(target, images, labels, epsilon=1, steps=10, step_size=0.2, start="zero", loss="cross_entropy")
        return strong if epsilon == SMALL else images

    monkeypatch.setattr(attacks, "pgd", Calls(breaks_all))
    clean, *small, first, second = measured(encoder)
    assert [found.right for found in small] == [0, 0]
    assert [found.right for found in (first, second)] == [clean.right] * 2


def test_counts_never_rise_from_attack_to_attack(encoder: SelfSupervisedEncoder) -> None:
    clean, *attacked = measured(encoder)
    assert clean.right >= attacked[0].right >= attacked[1].right
    assert clean.right > attacked[2].right >= attacked[3].right


def test_a_ball_without_extent_breaks_nothing(encoder: SelfSupervisedEncoder) -> None:
    clean, by_pgd, by_margin = measured(encoder, tiny(epsilons=(0.0,)))
    assert clean.right == by_pgd.right == by_margin.right > 0


def test_results_do_not_depend_on_how_many_images_are_attacked_at_once(
    encoder: SelfSupervisedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = tiny(attack={"steps": 2, "step_size": 0.01, "start": "zero", "every_step": False})
    at_once = measured(encoder.double(), protocol)
    monkeypatch.setattr(batches, "images_of_a_call", lambda *_: 4)
    assert measured(encoder, protocol) == at_once


class Ends:
    """Stands for an attack and keeps what it found, in the order of the images."""

    def __init__(self, attack: Any = pgd) -> None:
        self.attack, self.found = attack, list[Tensor]()

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        found = self.attack(*arguments, **settings)
        self.found.append(found if isinstance(found, Tensor) else found.images_NCHW)
        return found


@pytest.mark.parametrize(
    "attack",
    [MarginsConfig(steps=1), MarginsConfig(steps=3), PgdConfig(steps=2), PgdConfig(steps=2, restarts=3)],
    ids=str,
)
def test_what_a_search_measures_does_not_depend_on_the_batch(
    encoder: SelfSupervisedEncoder, monkeypatch: pytest.MonkeyPatch, attack: AttackConfig
) -> None:
    encoder.double()
    found = []
    for batch_images in (None, 1, 4, 250):
        ends = Ends(margins.attack_margins if attack.shares_heads else attacks.pgd)
        with monkeypatch.context() as patch:
            patch.setattr(*((margins, "attack_margins") if attack.shares_heads else (attacks, "pgd")), ends)
            changes: Any = {"batch_images": batch_images, "attacked_images": 13, "head": ProbeConfig(l2=(1e-2, 1))}
            found.append((scores(encoder, epsilon=0.005, attack=attack, **changes), torch.cat(ends.found)))
    (expected, adversarial), *others = found
    assert expected.balanced.clean_accuracy > expected.balanced.robust_accuracy > 0
    for other, found_by_other in others:
        assert other == expected
        torch.testing.assert_close(found_by_other, adversarial, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crops": 3},
        pytest.param({"crops": 3, "attack_each_crop": True}, marks=pytest.mark.long),
        pytest.param({"head": {"phases": ["adversarial"], "epochs": 2}}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_what_a_protocol_measures_does_not_depend_on_the_batch(
    encoder: SelfSupervisedEncoder, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    encoder.double()
    found = []
    for batch_images in (None, 1, 7):
        monkeypatch.setattr(attacks, "pgd", ends := Ends())
        several = {
            "attack": {"steps": 2, "step_size": 0.01, "restarts": 2, "every_step": False},
            "batch_images": batch_images,
        }
        found.append((measured(encoder, tiny(**several, **changes)), torch.cat(ends.found)))
    (expected, adversarial), *others = found
    assert expected[0].right > expected[-1].right > 0
    for other, found_by_other in others:
        assert other == expected
        torch.testing.assert_close(found_by_other, adversarial, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("batch_images", "changes", "most"),
    [
        (5, {}, 5),
        pytest.param(5, {"head": {"phases": ["adversarial"]}}, 5, marks=pytest.mark.long),
        (5, {"autoattack_images": 30, "autoattack_epsilons": (SMALL,)}, 5),
        pytest.param(2, {"crops": 3}, 6, marks=pytest.mark.long),
        (2, {"crops": 3, "attack_each_crop": True}, 6),
        (None, {}, 60),
    ],
    ids=str,
)
def test_the_encoder_never_sees_more_images_at_once_than_it_is_to(
    encoder: SelfSupervisedEncoder,
    autoattack_calls: Calls,
    batch_images: int | None,
    changes: dict[str, Any],
    most: int,
) -> None:
    autoattack_calls.attack = lambda target, images, labels, **_: images + 0 * target(images).sum()
    seen: list[int] = []
    encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    measured(encoder, tiny(batch_images=batch_images, **changes))
    assert max(seen) == most


def test_a_search_s_encoder_never_sees_more_images_at_once_either(encoder: SelfSupervisedEncoder) -> None:
    seen: list[int] = []
    encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    for batch_images, most in ((4, 4), (None, 30)):
        seen.clear()
        scores(encoder, batch_images=batch_images)
        assert max(seen) == most


def test_where_activations_are_large_the_encoder_sees_fewer_images_at_once(
    encoder: SelfSupervisedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr(cost, "BATCH_BYTES", 9 * 4 * pixel_gradient(ENCODER, 8).kept)
    for dtype, crops, most in ((torch.float32, 0, 9), (torch.float32, 4, 2 * 4), (torch.float64, 0, 4)):
        seen.clear()
        measured(encoder.to(dtype=dtype), tiny(crops=crops))
        assert max(seen) == most


@pytest.fixture
def in_order_of_classes(tmp_path: Path) -> DataConfig:
    """A file in which one class comes after the other; every image tells its class by its colour, and its number."""
    arrays: dict[str, Any] = {}
    for split, each in (("train", 40), ("test", 30)):
        labels = np.repeat(np.arange(CLASSES), each)
        arrays[f"x_{split}"] = np.zeros((len(labels), 8, 8, 3), np.uint8)
        arrays[f"x_{split}"][np.arange(len(labels)), :, :, labels] = 200
        arrays[f"x_{split}"][:, 0, 0, 0] = np.arange(len(labels))
        arrays[f"y_{split}"] = labels
    np.savez(tmp_path / "sorted.npz", **arrays)
    counts = {"pretrain_images": 60, "probe_images": 60, "validation_images": 60}
    return parse_data(name="npz", path=str(tmp_path / "sorted.npz"), **counts)


def numbers(pixels_NCHW: Tensor) -> list[int]:
    """Which images of a split these are."""
    return [round(value) for value in (pixels_NCHW[:, 0, 0, 0] * 255).tolist()]


def protocol_of(kind: str, **counts: int) -> ProtocolConfig:
    if kind == "confirm":
        return ConfirmConfig.model_validate(
            {"images": counts["images"], "attacked_images": counts["attacked_images"]}
        ).protocol(EVALUATION.model_copy(update={"epsilon": LARGE}))
    return tiny(epsilons=(LARGE,), autoattack_epsilons=(LARGE,), **counts)


@pytest.mark.parametrize("kind", ["protocol", "confirm"])
@pytest.mark.parametrize(
    "counts",
    [
        {"images": 30, "attacked_images": 12, "autoattack_images": 6},
        {"images": 21, "attacked_images": 9, "autoattack_images": 9},
        {"images": 12, "attacked_images": 30, "autoattack_images": 60},
    ],
    ids=str,
)
def test_every_count_of_test_images_is_a_fair_sample_part_of_the_larger_one_and_the_same_for_every_encoder(
    encoder: SelfSupervisedEncoder,
    in_order_of_classes: DataConfig,
    pgd_calls: Calls,
    autoattack_calls: Calls,
    kind: str,
    counts: dict[str, int],
) -> None:
    pgd_calls.attack = autoattack_calls.attack  # which leaves all images alone
    protocol = protocol_of(kind, **counts)
    seen = []
    for other in (encoder, SelfSupervisedEncoder(ENCODER)):
        pgd_calls.clear()
        autoattack_calls.clear()
        measured = list(
            measure_on(in_order_of_classes, other, protocol=protocol, crops=CROPS, device=torch.device("cpu"))
        )
        assert [found.accuracy for found in measured] == [1.0] * 4, "its classes are colours, so all are attacked"
        seen.append([numbers(call["images"]) for call in (*pgd_calls, *autoattack_calls)])
        assert [found.images for found in measured] == [measured[0].images, *map(len, seen[-1])]
    assert seen[0] == seen[1]
    by_pgd, by_margin, by_autoattack = map(set, seen[0])
    everything = set(numbers(load_test(in_order_of_classes, images=protocol.images).images_NCHW[:] / 255))
    assert by_autoattack <= by_margin == by_pgd <= everything
    assert len(everything) == counts["images"]
    assert len(by_pgd) == min(counts["images"], counts["attacked_images"])
    for sample in (everything, by_pgd, by_autoattack):
        assert [sum(number // 30 == label for number in sample) for label in range(CLASSES)] == [len(sample) // 3] * 3


@pytest.mark.parametrize("attack", [MarginsConfig(), PgdConfig()], ids=["all heads at once", "head by head"])
def test_the_attacked_validation_images_are_a_fair_sample_too(
    encoder: SelfSupervisedEncoder,
    in_order_of_classes: DataConfig,
    pgd_calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    attack: AttackConfig,
) -> None:
    def on_heads(logits_of: Any, images: Tensor, labels: Tensor, right_NL: Tensor, **_: Any) -> Any:
        pgd_calls.append({"images": images, "labels": labels})
        return SimpleNamespace(right_NL=right_NL)

    monkeypatch.setattr(margins, "attack_margins", on_heads)
    splits = load_splits(in_order_of_classes)
    for attacked_images in (6, 15, 60):
        pgd_calls.clear()
        config = EVALUATION.model_copy(update={"attacked_images": attacked_images, "attack": attack})
        found = search_scores(
            encoder, splits.probe, splits.validation, classes=CLASSES, config=config, generator=torch.Generator()
        )
        assert found.balanced.clean_accuracy == 1, "its classes are colours, so all are attacked"
        labels = torch.cat(pgd_calls.of("labels"))
        assert torch.bincount(labels).tolist() == [attacked_images // 3] * 3
        assert (
            numbers(torch.cat(pgd_calls.of("images")))
            == numbers(splits.validation.images_NCHW[:] / 255)[:attacked_images]
        )


def test_pgd_and_its_margin_check_get_the_settings_of_the_protocol(
    encoder: SelfSupervisedEncoder, pgd_calls: Calls
) -> None:
    attack = {"steps": 3, "step_size": 0.004, "restarts": 2, "start": "uniform", "every_step": False}
    measured(encoder, tiny(attack=attack))
    assert [{name: call[name] for name in attack} for call in pgd_calls] == [attack] * 4
    assert pgd_calls.of("epsilon") == [SMALL, SMALL, LARGE, LARGE]
    assert pgd_calls.of("loss") == ["cross_entropy", "margin"] * 2


def test_autoattack_gets_the_classifier_the_radius_and_the_seed(
    encoder: SelfSupervisedEncoder, autoattack_calls: Calls
) -> None:
    measured(encoder, tiny(autoattack_images=40, autoattack_epsilons=(SMALL, LARGE), seed=7))
    assert autoattack_calls.of("epsilon") == [SMALL, LARGE]
    assert autoattack_calls.of("seed") == [7, 7]
    assert all(isinstance(target, LinearClassifier) for target in autoattack_calls.of("target"))


def test_autoattack_on_an_encoder_in_float64_is_refused_before_anything_is_computed(
    encoder: SelfSupervisedEncoder,
) -> None:
    with pytest.raises(ValueError, match=r"attack autoattack needs weights in torch\.float32, not in torch\.float64"):
        next(start(encoder.double(), tiny(autoattack_images=40, autoattack_epsilons=(SMALL,))))


class Blind(nn.Module):
    """Logits that are no numbers."""

    def forward(self, features_NF: torch.Tensor) -> torch.Tensor:
        return torch.full((len(features_NF), CLASSES), torch.nan)


def test_logits_that_are_no_numbers_never_count_as_right(encoder: SelfSupervisedEncoder) -> None:
    blind = LinearClassifier(encoder.eval(), Blind())
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        predicted_right(blind, VALIDATION)
    everything = torch.ones(len(VALIDATION), dtype=torch.bool)
    assert not still_right(blind, VALIDATION, everything, lambda inputs, _: inputs).any()


def test_logits_leave_their_device_once_and_not_batch_by_batch(
    encoder: SelfSupervisedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, cpu = [], Tensor.cpu

    def noted_cpu(tensor: Tensor) -> Tensor:
        moved.append(tensor.shape)
        return cpu(tensor)

    monkeypatch.setattr(Tensor, "cpu", noted_cpu)
    predicted_right(LinearClassifier(encoder.eval(), nn.Identity()), VALIDATION, at_once=4)
    assert moved == [(len(VALIDATION), ENCODER.prefeature_width)]


@pytest.mark.parametrize(("right", "images"), [(0, 10), (1, 1), (7, 10), (500, 1000), (1000, 1000)])
def test_the_interval_is_wilsons(right: int, images: int) -> None:
    found = Measurement.clean(images, right)
    p, z = right / images, 1.959963984540054
    centre = (p + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * math.sqrt(p * (1 - p) / images + z**2 / (4 * images**2))
    assert found.accuracy == p
    assert found.interval == pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-12)


def assert_as_it_was(encoder: SelfSupervisedEncoder, training: bool, frozen: Tensor) -> None:
    assert all(module.training is training for module in encoder.modules())
    assert [parameter for parameter in encoder.parameters() if not parameter.requires_grad] == [frozen]
    assert all(parameter.grad is None for parameter in encoder.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 2, 99], ids=["unread", "closed after clean", "closed after PGD", "read"])
def test_a_protocol_leaves_the_encoder_as_it_was_however_far_it_is_read(
    encoder: SelfSupervisedEncoder, training: bool, rows: int
) -> None:
    encoder.train(training)
    frozen = encoder.backbone.stem.weight.requires_grad_(False)
    before = copy.deepcopy(encoder.state_dict())
    rest = start(encoder)
    for _ in zip(range(rows), rest, strict=False):
        assert not encoder.training
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
    rest.close()  # type: ignore[attr-defined]
    assert_as_it_was(encoder, training, frozen)
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_an_attack_that_doubts_itself_ends_the_protocol_and_leaves_the_encoder_as_it_was(
    encoder: SelfSupervisedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubts(*_: Any, **__: Any) -> Tensor:
        raise AttackInvalid("no gradients")

    monkeypatch.setattr(autoattack, "autoattack", doubts)
    frozen = encoder.backbone.stem.weight.requires_grad_(False)
    rest = start(encoder, tiny(autoattack_images=40, autoattack_epsilons=(SMALL,)))
    found = [next(rest).attack for _ in range(3)]
    with pytest.raises(AttackInvalid, match="no gradients"):
        next(rest)
    assert found == ["none", "pgd", "pgd_margin"]
    assert_as_it_was(encoder, True, frozen)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_no_result(encoder: SelfSupervisedEncoder, value: float) -> None:
    norm = encoder.prefeature[1]
    assert isinstance(norm, nn.BatchNorm1d)
    norm.bias.data[0] = value
    with pytest.raises(FloatingPointError, match="not finite"):
        next(start(encoder))
    assert encoder.training
    assert all(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("crops", [0, 2])
def test_a_protocol_depends_on_its_seed_and_the_encoder_alone(encoder: SelfSupervisedEncoder, crops: int) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = measured(encoder, tiny(crops=crops))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert measured(encoder, tiny(crops=crops)) == first


def test_another_seed_gives_other_starts_of_the_attack(
    encoder: SelfSupervisedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[Tensor] = []

    def remembers(*args: Any, **settings: Any) -> Tensor:
        ends.append(pgd(*args, **settings))
        return ends[-1]

    monkeypatch.setattr(attacks, "pgd", remembers)
    for seed in (0, 0, 1):
        list(zip(range(2), start(encoder, tiny(seed=seed)), strict=False))
    first, again, other = ends
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_another_seed_gives_other_initial_weights_of_a_trained_head(encoder: SelfSupervisedEncoder) -> None:
    first, again, other = (
        classifier_of(encoder, tiny(seed=seed, head={"fit": "adam", "phases": ["clean"]})).head.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)  # type: ignore[arg-type]
    assert not torch.equal(first, other)  # type: ignore[arg-type]


def test_a_trained_head_sees_its_images_in_the_order_of_the_protocols_seed(
    encoder: SelfSupervisedEncoder, pgd_calls: Calls
) -> None:
    head = {"fit": "adam", "phases": ["adversarial"], "batch_images": 16, "attack": {"steps": 1}}
    next(start(encoder, tiny(seed=7, head=head)))
    order_N = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(7))
    assert torch.equal(pgd_calls[0]["images"], TRAIN.images_NCHW[order_N[:16]] / 255)


def classifier_of(
    encoder: SelfSupervisedEncoder, protocol: ProtocolConfig, training: LabelledImages = TRAIN
) -> LinearClassifier:
    return fit_classifier(
        encoder.eval().requires_grad_(False),
        training,
        classes=CLASSES,
        protocol=protocol,
        views=None,
        generator=torch.Generator().manual_seed(protocol.seed),
    )


def test_with_crops_one_head_reads_the_mean_features_of_the_same_crops_in_training_and_test(
    encoder: SelfSupervisedEncoder,
) -> None:
    clean = next(start(encoder.double(), tiny(crops=3, seed=5)))
    encoder.eval()
    views = draw_views(
        CROPS.model_copy(update={"views": 3}), height=8, width=8, generator=torch.Generator().manual_seed(5)
    )
    several = LinearClassifier(encoder, nn.Identity(), views=views)
    with torch.no_grad():
        train_NF, test_NF = (
            torch.stack([encoder.features(crops_NCHW) for crops_NCHW in several.crops_of(pixels_NCHW).unbind(1)]).mean(
                0
            )
            for pixels_NCHW in (TRAIN.images_NCHW[:].double() / 255, TEST.images_NCHW[:].double() / 255)
        )
    head = fit_path(train_NF, TRAIN.labels_N, classes=CLASSES, strengths=[L2], tolerance=1e-4, iterations=200)[0]
    assert clean.right == int((head(test_NF).argmax(-1) == TEST.labels_N).sum())


def test_with_crops_the_image_is_attacked_or_as_published_every_crop(
    encoder: SelfSupervisedEncoder, pgd_calls: Calls
) -> None:
    for each in (False, True):
        measured(encoder, tiny(crops=2, attack_each_crop=each, epsilons=(SMALL,), margin_check=False))
    of_images, of_crops = pgd_calls
    assert isinstance(of_images["target"], LinearClassifier)
    assert of_images["images"].shape[1:] == (3, 8, 8)
    assert isinstance(of_crops["target"], EachCrop)
    assert of_crops["images"].shape[1:] == (2, 3, 8, 8)


def test_attacking_each_crop_of_one_whole_image_is_attacking_the_image(encoder: SelfSupervisedEncoder) -> None:
    whole, of_image, of_crop = (
        measured(encoder.double(), tiny(crops=crops, attack_each_crop=each), WHOLE)
        for crops, each in ((0, False), (1, False), (1, True))
    )
    # The crops are drawn first, from the same generator, so random starts differ from those without crops.
    assert whole[0] == of_image[0]
    assert of_image == of_crop


def test_the_published_protocols_attack_from_zero_once_by_steps_of_a_hundredth(
    encoder: SelfSupervisedEncoder, pgd_calls: Calls, autoattack_calls: Calls
) -> None:
    for name, steps in (("published-emp", 2), ("published-simclr", 20)):
        pgd_calls.clear()
        clean_head = {"fit": "adam", "phases": ["clean"]}
        protocol = ProtocolConfig.model_validate({**PROTOCOLS[name].model_dump(), "head": clean_head})
        results = measured(encoder, protocol)
        assert [(found.attack, found.label, found.epsilon) for found in results] == [
            ("none", "none", 0),
            ("pgd", f"PGD-{steps}", 4 / 255),
            ("pgd", f"PGD-{steps}", 8 / 255),
        ]
        assert pgd_calls.of("epsilon") == [4 / 255, 8 / 255]
        for call in pgd_calls:
            settings = {key: value for key, value in call.items() if key in PgdConfig.model_fields}
            assert settings == {
                "steps": steps,
                "step_size": 0.01,
                "restarts": 1,
                "start": "zero",
                "loss": "cross_entropy",
                "every_step": False,
            }
    assert not autoattack_calls


def test_two_published_steps_do_not_reach_the_border_of_the_larger_ball(
    encoder: SelfSupervisedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def measure_size(target: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, **settings: Any) -> Tensor:
        adversarial = pgd(target, images, labels, epsilon=epsilon, **settings)
        sizes.append((adversarial - images).abs().max().item())
        return adversarial

    monkeypatch.setattr(attacks, "pgd", measure_size)
    measured(encoder, tiny(**{**PROTOCOLS["published-emp"].model_dump(), "head": HeadConfig(l2=(L2,))}))
    assert sizes == pytest.approx([4 / 255, 0.02], abs=1e-6)


def test_the_published_emp_head_is_trained_clean_then_adversarially_then_clean(
    encoder: SelfSupervisedEncoder, pgd_calls: Calls
) -> None:
    many = images(260, seed=4)
    encoder.double()
    trained = classifier_of(encoder, PROTOCOLS["published-emp"], many)
    pixels_NCHW = many.images_NCHW[:].double() / 255
    features_NF = encoder.features(pixels_NCHW)
    by_hand = LinearClassifier(encoder, default_head(features_NF, CLASSES, seed=0))
    optimizer = torch.optim.Adam(by_hand.head.parameters(), lr=3e-4)
    generator = torch.Generator().manual_seed(0)
    for phase in ("clean", "adversarial", "clean"):
        for _ in range(2):
            for indices_B in torch.randperm(260, generator=generator).split(256):
                features_BF, labels_B = features_NF[indices_B], many.labels_N[indices_B]
                if phase == "adversarial":
                    x = pixels_NCHW[indices_B]
                    published = {"epsilon": 8 / 255, "steps": 5, "step_size": 0.01, "loss": "cross_entropy"}
                    x = pgd(by_hand, x, labels_B, restarts=1, start="zero", **published)  # type: ignore[arg-type]
                    features_BF = encoder.features(x)
                optimizer.zero_grad()
                F.cross_entropy(by_hand.head(features_BF), labels_B).backward()
                optimizer.step()
    for ours, theirs in zip(trained.head.parameters(), by_hand.head.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9, check_stride=False)
        assert not ours.requires_grad
    assert [len(shown) for shown in pgd_calls.of("images")] == [256, 4] * 2
    assert {call["epsilon"] for call in pgd_calls} == {8 / 255}


@pytest.mark.slow
def test_autoattack_on_few_images_at_once_leaves_batch_norm_as_it_is() -> None:
    """It recomputes activations; with the norm of a minibatch they would be others."""
    torch.manual_seed(0)
    encoder = SelfSupervisedEncoder(EncoderConfig(width=4, prefeature_width=16, hidden_width=16, embedding_width=16))
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    images[1::2] //= 2
    data = LabelledImages(images, torch.arange(40) % 2)
    radii: dict[str, Any] = {"epsilons": (2 / 255,), "autoattack_epsilons": (2 / 255,), "autoattack_images": 12}
    found = []
    for at_once in (None, 5):
        protocol = ProtocolConfig(name="few", head=HeadConfig(l2=(0.1,)), images=12, batch_images=at_once, **radii)
        measured = run_protocol(encoder, data, data, classes=2, protocol=protocol, crops=CropsConfig())
        found.append([(each.attack, each.right, each.images) for each in measured])
    assert found[0] == found[1]
    assert found[0][-1][0] == "autoattack"
