import copy
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.config.heads import HeadConfig
from cfamc_ray.config.method import CropsConfig
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.attacks import pgd
from cfamc_ray.evaluation.classifier import (
    EachCrop,
    LinearClassifier,
    Views,
    as_pixels,
    attacked_features,
    draw_views,
)
from cfamc_ray.evaluation.probe import default_head, fit_path, train_probe
from cfamc_ray.method.crops import draw_crop_parameters
from cfamc_ray.method.encoder import SelfSupervisedEncoder

N, SIDE, K = 6, 12, 10
ENCODER = EncoderConfig(width=4, prefeature_width=8, hidden_width=8, embedding_width=4)
WHOLE = Views(torch.tensor([[0, 0, SIDE, SIDE]]), torch.tensor([False]), SIDE)
CROPS = CropsConfig(views=5, size=8)


def encoder(dtype: torch.dtype = torch.float64) -> SelfSupervisedEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SelfSupervisedEncoder(ENCODER).to(dtype).eval().requires_grad_(False)


def classifier(views: Views | None, kind: str = "prefeature") -> LinearClassifier:
    width = 8 if kind == "prefeature" else 4 * 8
    head = default_head(torch.zeros(1, width, dtype=torch.float64), K, seed=1).requires_grad_(False)
    return LinearClassifier(encoder(), head, features=kind, views=views)


def views(seed: int = 0, **changes: Any) -> Views:
    config = CROPS.model_copy(update=changes)
    return draw_views(config, height=SIDE, width=SIDE, generator=torch.Generator().manual_seed(seed))


PIXELS = torch.rand((N, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
LABELS = torch.arange(N) % K


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["prefeature", "backbone"])
def test_logits_are_the_heads_of_the_encoders_features(kind: str) -> None:
    whole = classifier(None, kind)
    assert torch.equal(whole(PIXELS), whole.head(whole.encoder.features(PIXELS, kind=kind)))


@pytest.mark.parametrize("kind", ["prefeature", "backbone"])
def test_with_views_the_head_reads_the_mean_of_the_crops_features(kind: str) -> None:
    several = classifier(views(), kind)
    crops_NVCSS = several.crops_of(PIXELS)
    assert crops_NVCSS.shape == (N, 5, 3, 8, 8)
    of_each = [several.encoder.features(crops_NVCSS[:, v], kind=kind) for v in range(5)]
    close(several(PIXELS), several.head(sum(of_each) / 5))
    close(several.logits_of_crops(crops_NVCSS), several(PIXELS))


def test_one_crop_of_the_whole_image_is_the_image() -> None:
    assert torch.equal(classifier(WHOLE).crops_of(PIXELS)[:, 0], PIXELS)
    close(classifier(WHOLE)(PIXELS), classifier(None)(PIXELS))


def test_a_flipped_crop_of_the_whole_image_is_the_mirrored_image() -> None:
    mirrored = Views(WHOLE.box_V4, torch.tensor([True]), SIDE)
    close(classifier(mirrored)(PIXELS), classifier(None)(PIXELS.flip(-1)))


@pytest.mark.parametrize("start", ["uniform", "zero"])
def test_attacking_one_crop_of_the_whole_image_is_attacking_the_image(start: Any) -> None:
    whole, crops = classifier(None), classifier(WHOLE)
    attack = partial(pgd, labels=LABELS, epsilon=0.1, steps=3, step_size=0.04, start=start)
    of_image, of_crop, through_crop = (
        attack(logits_of, images, generator=torch.Generator().manual_seed(0))
        for logits_of, images in ((whole, PIXELS), (crops.logits_of_crops, crops.crops_of(PIXELS)), (crops, PIXELS))
    )
    close(of_crop[:, 0], of_image)
    close(through_crop, of_image)


def test_attacking_each_crop_by_itself_breaks_at_least_what_attacking_the_image_does() -> None:
    several = classifier(views())
    attack = partial(pgd, labels=LABELS, epsilon=0.02, steps=10, step_size=0.01, start="zero")
    of_image, of_crops = attack(several, PIXELS), attack(several.logits_of_crops, several.crops_of(PIXELS))
    losses = [
        F.cross_entropy(logits, LABELS).item() for logits in (several(of_image), several.logits_of_crops(of_crops))
    ]
    assert F.cross_entropy(several(PIXELS), LABELS).item() < losses[0] < losses[1]


@pytest.mark.parametrize("seen", [None, views()], ids=["whole", "crops"])
def test_the_gradient_of_the_pixels_equals_finite_differences(seen: Views | None) -> None:
    model = classifier(seen)
    weights_NK = torch.randn((N, K), generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def objective(pixels: Tensor) -> Tensor:
        return torch.sum(model(pixels) * weights_NK)

    pixels = PIXELS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(pixels), pixels)
    for seed in range(5):
        direction = torch.randn(PIXELS.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        step = 1e-7 * direction
        slope = (objective(PIXELS + step) - objective(PIXELS - step)) / 2e-7
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-6)


def test_an_image_gets_the_same_logits_in_every_batch_and_every_time() -> None:
    several = classifier(views())
    together = several(PIXELS)
    assert torch.equal(several(PIXELS), together)
    close(torch.cat([several(image[None]) for image in PIXELS]), together)
    close(several(PIXELS.flip(0)), together.flip(0))


def test_views_follow_from_their_seed_and_the_crops_settings_alone() -> None:
    torch.manual_seed(1)
    first = views()
    torch.manual_seed(2)
    again, other, gray = views(), views(seed=1), views(grayscale_probability=1.0, jitter_probability=0.0)
    for same in (again, gray):
        assert torch.equal(first.box_V4, same.box_V4)
        assert torch.equal(first.flip_V, same.flip_V)
    assert not torch.equal(first.box_V4, other.box_V4)


def test_views_are_distributed_as_the_crops_of_pretraining() -> None:
    many = draw_views(CROPS.model_copy(update={"views": 400}), height=32, width=32, generator=torch.Generator())
    parameters = draw_crop_parameters(
        CROPS.model_copy(update={"views": 400}), images=1, height=32, width=32, generator=torch.Generator()
    )
    assert torch.equal(many.box_V4, parameters.box_VB4[:, 0])
    assert torch.equal(many.flip_V, parameters.flip_VB[:, 0])


def digits() -> tuple[LabelledImages, LabelledImages]:
    """Some to train on and some to attack."""
    data = load_digits()
    images_N1HW = torch.from_numpy(data.images * (255 / 16)).to(torch.uint8)[:, None]
    both = LabelledImages(images_N1HW.repeat(1, 3, 1, 1), torch.from_numpy(data.target))
    return both.take(torch.arange(600)), both.take(torch.arange(600, 900))


def test_attacked_features_are_those_of_the_attacked_images_through_the_present_head() -> None:
    images, _ = digits()
    model = classifier(None)
    attack = partial(pgd, model, epsilon=8 / 255, steps=2, step_size=0.01, start="zero")
    features_of, indices_B = attacked_features(model, images, attack), torch.tensor([5, 3, 77])
    before = features_of(indices_B)
    next(model.head.parameters()).neg_()
    pixels = images.images_NCHW[indices_B].double() / 255
    adversarial = pgd(
        lambda x: model.head(model.encoder.features(x)),
        pixels,
        images.labels_N[indices_B],
        epsilon=8 / 255,
        steps=2,
        step_size=0.01,
        start="zero",
    )
    after = features_of(indices_B)
    close(after, model.encoder.features(adversarial))
    assert not torch.allclose(after, before)
    assert not after.requires_grad


class PixelEncoder(SelfSupervisedEncoder):
    """Its features are the pixels: of a linear classifier it is known that adversarial training helps."""

    def features(self, images_NCHW: Tensor, *, kind: str = "prefeature") -> Tensor:
        return images_NCHW.flatten(1)


def test_an_adversarial_probe_resists_far_more_than_the_standard_probe_that_it_starts_from() -> None:
    train, held_out = digits()
    pixel_encoder = PixelEncoder(ENCODER).eval().requires_grad_(False)
    features_NF = as_pixels(train.images_NCHW[:], pixel_encoder).flatten(1)
    standard = fit_path(features_NF, train.labels_N, classes=K, strengths=[1e-2], tolerance=1e-4, iterations=200)[0]
    head = copy.deepcopy(standard)
    adversarial = LinearClassifier(pixel_encoder, head)
    ball: dict[str, Any] = {"epsilon": 0.1, "steps": 5, "step_size": 0.03}
    train_probe(
        head,
        HeadConfig(phases=("adversarial",), epochs=20, lr=3e-2, batch_images=64),
        features_NF,
        train.labels_N,
        generator=torch.Generator().manual_seed(0),
        attacked_features=attacked_features(adversarial, train, partial(pgd, adversarial, start="zero", **ball)),
    )

    def robust_accuracy(model: LinearClassifier) -> float:
        pixels_NCHW, labels_N = as_pixels(held_out.images_NCHW[:], model), held_out.labels_N
        attacked_NCHW = pgd(model, pixels_NCHW, labels_N, generator=torch.Generator().manual_seed(0), **ball)
        return int((model(attacked_NCHW).argmax(-1) == labels_N).sum()) / len(labels_N)

    assert robust_accuracy(adversarial) > robust_accuracy(LinearClassifier(pixel_encoder, standard)) + 0.3


def test_the_crops_numbers_move_to_the_encoders_device_once() -> None:
    on_meta = LinearClassifier(encoder().to("meta"), nn.Identity(), views=views())
    assert on_meta.views is not None
    assert on_meta.views.box_V4.is_meta
    assert on_meta.views.flip_V.is_meta
    assert on_meta.views.size == CROPS.size
    assert LinearClassifier(encoder().to("meta"), nn.Identity()).views is None


def test_indices_on_another_device_pick_the_same_images_to_attack() -> None:
    images = LabelledImages((255 * PIXELS).to(torch.uint8), LABELS)
    features_of = attacked_features(classifier(None), images, lambda pixels, _: 1 - pixels)
    indices_B = torch.tensor([4, 1])
    on_gpu = cast(Tensor, SimpleNamespace(to=lambda device: {torch.device("cpu"): indices_B}[device]))
    assert torch.equal(features_of(on_gpu), features_of(indices_B))


@pytest.mark.parametrize(
    ("device", "images_on", "pinned"), [("cuda", "cpu", 1), ("cuda", "cuda", 0), ("cpu", "cpu", 0)]
)
def test_images_on_their_way_to_a_gpu_are_pinned(
    monkeypatch: pytest.MonkeyPatch, device: str, images_on: str, pinned: int
) -> None:
    """FakeTensorMode has devices without memory."""
    calls: list[Any] = []
    to = Tensor.to

    def noted_to(tensor: Tensor, *args: Any, **settings: Any) -> Tensor:
        calls.append(settings)
        return to(tensor, *args, **settings)

    def pin(tensor: Tensor) -> Tensor:
        calls.append("pin")
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", noted_to)
    with FakeTensorMode():
        weights = cast(nn.Module, SimpleNamespace(parameters=lambda: iter([torch.empty(1, device=device)])))
        pixels = as_pixels(torch.empty(2, 3, 4, 4, dtype=torch.uint8, device=images_on), weights)
    assert (pixels.device.type, pixels.dtype) == (device, torch.float32)
    assert calls.count("pin") == pinned
    assert calls[pinned] == {"non_blocking": True}


@pytest.mark.parametrize("training", [False, True])
def test_its_mode_is_the_encoders(training: bool) -> None:
    encoder = SelfSupervisedEncoder(EncoderConfig(width=4, prefeature_width=8, hidden_width=8, embedding_width=4))
    classifier = LinearClassifier(encoder.train(training), nn.Identity())
    for target in (classifier, EachCrop(classifier)):
        assert target.training == training
        was_training = target.training  # as attacks of other libraries do
        target.eval()
        target.train(was_training)
        assert {module.training for module in encoder.modules()} == {training}
