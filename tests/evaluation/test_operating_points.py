"""Linear probes of several strengths on one encoder, in a search and in a protocol."""

from typing import Any

import pytest
import torch
from test_protocols import CLASSES, CROPS, ENCODER, PROBE, SMALL, TEST, TRAIN, VALIDATION, images, tiny
from torch import Tensor, nn

from cfamc_ray.config.attacks import AttackConfig, AutoAttackConfig, MarginsConfig, PgdConfig
from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.config.heads import HEADS, ProbeConfig
from cfamc_ray.config.protocol import PROTOCOLS, ProtocolConfig
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation import autoattack, fitting
from cfamc_ray.evaluation.batches import encode
from cfamc_ray.evaluation.classifier import LinearClassifier
from cfamc_ray.evaluation.fitting import fit_classifier
from cfamc_ray.evaluation.measurement import Measurement
from cfamc_ray.evaluation.operating_points import OperatingPoint, balanced, fit_points, right_of, still_right_of
from cfamc_ray.evaluation.probe import fit_converged, fit_path
from cfamc_ray.evaluation.protocols import run_protocol
from cfamc_ray.evaluation.scores import search_scores
from cfamc_ray.method.encoder import SelfSupervisedEncoder

STRENGTHS = (1e-3, 1e-1, 1.0)
MANY = images(150, seed=7, signal=50)


@pytest.fixture
def encoder() -> SelfSupervisedEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SelfSupervisedEncoder(ENCODER).eval().requires_grad_(False)


@pytest.fixture
def classifier(encoder: SelfSupervisedEncoder) -> LinearClassifier:
    return LinearClassifier(encoder, nn.Identity())


def fitted(classifier: LinearClassifier) -> tuple[list[nn.Linear], Tensor]:
    """Heads of each strength, and which validation images each gets right."""
    features_NF = encode(classifier, PROBE.images_NCHW)
    heads = fit_converged(features_NF, PROBE.labels_N, classes=CLASSES, config=ProbeConfig(l2=STRENGTHS))
    return heads, right_of(heads, encode(classifier, VALIDATION.images_NCHW), VALIDATION.labels_N)


def darker(_: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, **__: Any) -> Tensor:
    """Stands for AutoAttack."""
    return (images - epsilon).clamp(min=0)


@pytest.mark.parametrize(
    ("attack", "epsilon"),
    [(PgdConfig(every_step=False, restarts=2), 0.003), (AutoAttackConfig(), 0.3)],
    ids=["PGD to the last step", "AutoAttack"],
)
def test_an_attack_that_shares_no_heads_finds_of_each_what_it_finds_of_it_alone(
    classifier: LinearClassifier, attack: AttackConfig, epsilon: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoattack, "autoattack", darker)
    heads, right_NL = fitted(classifier)
    together, apart = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    left_NL = still_right_of(classifier, heads, VALIDATION, right_NL, attack, epsilon=epsilon, generator=together)
    for place, head in enumerate(heads):
        one = slice(place, place + 1)
        alone_N1 = still_right_of(
            classifier, [head], VALIDATION, right_NL[:, one], attack, epsilon=epsilon, generator=apart
        )
        assert torch.equal(left_NL[:, one], alone_N1)
    assert 0 < left_NL.sum() < right_NL.sum()
    assert torch.equal(together.get_state(), apart.get_state())


@pytest.mark.parametrize("every_step", [True, False], ids=["all heads at once", "head by head"])
def test_an_image_that_no_head_gets_right_never_reaches_the_attack(
    classifier: LinearClassifier, every_step: bool
) -> None:
    seen: list[Tensor] = []
    heads, right_NL = fitted(classifier)
    classifier.encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    hopeless_N = ~right_NL.any(1)
    assert 0 < hopeless_N.sum() < len(hopeless_N)
    attack = PgdConfig(steps=2, every_step=every_step)
    still_right_of(classifier, heads, VALIDATION, right_NL, attack, epsilon=0.01, generator=torch.Generator())
    pixels_NCHW = VALIDATION.images_NCHW[:] / 255
    for x in torch.cat(seen):
        distance_N = (pixels_NCHW - x).abs().flatten(1).amax(1)
        assert distance_N.min() <= 0.01 + 1e-6
        assert not hopeless_N[distance_N.argmin()]


def test_a_search_measures_every_strength_and_keeps_its_head(encoder: SelfSupervisedEncoder) -> None:
    config = EvaluationConfig(head=ProbeConfig(l2=STRENGTHS), epsilon=0.02, attack=PgdConfig(steps=3))
    found = search_scores(
        encoder, PROBE, VALIDATION, classes=CLASSES, config=config, generator=torch.Generator().manual_seed(0)
    )
    assert tuple(point.l2 for point in found.points) == STRENGTHS
    for point, head in zip(found.points, found.heads, strict=True):
        features_NF, clean_NF = (
            encode(LinearClassifier(encoder, nn.Identity()), part.images_NCHW) for part in (PROBE, VALIDATION)
        )
        (alone,) = fit_path(
            features_NF, PROBE.labels_N, classes=CLASSES, strengths=[point.l2], tolerance=1e-4, iterations=200
        )
        torch.testing.assert_close(head(features_NF), alone(features_NF), rtol=0, atol=0.1)
        for part_NF, labels_N, accuracy in [
            (features_NF, PROBE.labels_N, point.probe_accuracy),
            (clean_NF, VALIDATION.labels_N, point.clean_accuracy),
        ]:
            assert accuracy == (head(part_NF).argmax(-1) == labels_N).double().mean()
        assert 0 <= point.robust_accuracy <= point.clean_accuracy
    assert found.points[0] != found.points[-1]


def point(l2: float, clean: float, robust: float) -> OperatingPoint:
    return OperatingPoint(l2, 1.0, clean, robust)


def test_the_balanced_point_has_the_largest_sum_and_of_equal_ones_the_smallest_strength() -> None:
    weak, middle, strong = point(0.01, 0.75, 0.25), point(0.1, 0.5, 0.5), point(1, 0.25, 0.5)
    for order in ([weak, middle, strong], [strong, middle, weak]):
        assert balanced(order) == weak
    assert balanced([strong, point(3, 0.5, 0.5)]).l2 == 3


def choosing(**changes: Any) -> ProtocolConfig:
    return tiny(head={"l2": STRENGTHS}, **changes)


def run(
    encoder: SelfSupervisedEncoder, protocol: ProtocolConfig, training: LabelledImages = MANY
) -> tuple[list[Measurement], list[tuple[OperatingPoint, ...]]]:
    curves: list[Any] = []
    measured = run_protocol(
        encoder, training, TEST, classes=CLASSES, protocol=protocol, crops=CROPS, on_curve=curves.append
    )
    return list(measured), curves


@pytest.mark.parametrize(
    "changes", [{}, {"crops": 2}, {"head": {"l2": STRENGTHS, "phases": ["adversarial"]}}, {"seed": 3}], ids=str
)
def test_after_its_choice_a_protocol_measures_what_it_measures_with_that_strength_alone(
    encoder: SelfSupervisedEncoder, changes: dict[str, Any]
) -> None:
    protocol = tiny(**{"head": {"l2": STRENGTHS}, **changes})
    measured, (curve,) = run(encoder, protocol)
    assert tuple(point.l2 for point in curve) == STRENGTHS
    chosen = protocol.head.model_copy(update={"l2": (balanced(curve).l2,)})
    assert run(encoder, protocol.model_copy(update={"head": chosen})) == (measured, [])


@pytest.mark.parametrize("best", STRENGTHS)
def test_the_balanced_strength_is_fitted_on_all_training_images(
    encoder: SelfSupervisedEncoder, monkeypatch: pytest.MonkeyPatch, best: float
) -> None:
    points = tuple(point(l2, 0.5, 0.5 if l2 == best else 0.25) for l2 in STRENGTHS)
    monkeypatch.setattr(fitting, "held_out_points", lambda *_, **__: points)
    classifier = fit_classifier(
        encoder, MANY, classes=CLASSES, protocol=choosing(), views=None, generator=torch.Generator()
    )
    features_NF = encode(classifier, MANY.images_NCHW)
    (expected,) = fit_path(
        features_NF, MANY.labels_N, classes=CLASSES, strengths=[best], tolerance=1e-4, iterations=200
    )
    assert torch.equal(classifier.head.weight, expected.weight)  # type: ignore[arg-type]


def test_strengths_are_compared_on_a_stratified_fifth_that_no_probe_was_fitted_on(
    encoder: SelfSupervisedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def noted(
        _: LinearClassifier, probe_NF: Tensor, labels: Tensor, held_out_NF: Tensor, held_out: Any, **more: Any
    ) -> Any:
        calls.append({"probe_NF": probe_NF, "labels": labels, "held_out_NF": held_out_NF, "held_out": held_out, **more})
        return fit_points(_, probe_NF, labels, held_out_NF, held_out, **more)

    monkeypatch.setattr(fitting, "fit_points", noted)
    by_class = MANY.take(MANY.labels_N.argsort(stable=True))
    _, (curve,) = run(encoder, choosing(), by_class)
    run(encoder, choosing(), by_class)
    run(encoder, choosing(seed=1), by_class)
    first, again, other = calls
    assert (len(first["held_out"]), len(first["labels"])) == (30, 120)
    assert torch.bincount(first["held_out"].labels_N).tolist() == [10, 10, 10]
    rows = [tuple(row.tolist()) for row in encode(LinearClassifier(encoder, nn.Identity()), by_class.images_NCHW)]
    fitted, held_out = ({tuple(row.tolist()) for row in first[name]} for name in ("probe_NF", "held_out_NF"))
    assert not fitted & held_out
    assert fitted | held_out == set(rows)
    assert torch.equal(first["held_out"].images_NCHW, again["held_out"].images_NCHW)
    assert not torch.equal(first["held_out"].images_NCHW, other["held_out"].images_NCHW)
    assert (first["attack"], first["epsilon"], first["attacked_images"]) == (MarginsConfig(), SMALL, 1000)
    for found in curve:
        assert found.clean_accuracy * 30 == pytest.approx(round(found.clean_accuracy * 30))
        assert found.robust_accuracy <= found.clean_accuracy


@pytest.mark.parametrize("count", [4, 5, 6])
def test_few_training_images_are_enough_for_a_choice(encoder: SelfSupervisedEncoder, count: int) -> None:
    measured, (curve,) = run(encoder, choosing(), TRAIN.take(torch.arange(count)))
    assert len(curve) == 3
    assert measured[0].images == len(TEST)


@pytest.mark.parametrize("name", [name for name, head in HEADS.items() if head.fit != "converged"])
def test_published_heads_choose_no_strength(
    encoder: SelfSupervisedEncoder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(fitting, "held_out_points", lambda *_, **__: pytest.fail("a strength was chosen"))
    assert not PROTOCOLS["published-emp"].head.selects_l2
    protocol = tiny(head={**HEADS[name].model_dump(), "epochs": 1})
    (first, *_), curves = run(encoder, protocol)
    assert curves == []
    assert first.images == len(TEST)
