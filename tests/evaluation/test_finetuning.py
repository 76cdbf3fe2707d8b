"""Fine-tuning of an encoder with its head: what it trains, what it leaves alone, and what adversarial training buys."""

import copy
import math
from typing import Any

import pytest
import torch
from test_protocols import CLASSES, CROPS, ENCODER, TEST, TRAIN, Calls, tiny
from torch import nn

from cfamc_ray.config.data import parse_data
from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.config.finetune import FinetuneConfig
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.sources import read_source
from cfamc_ray.evaluation import attacks
from cfamc_ray.evaluation.classifier import LinearClassifier
from cfamc_ray.evaluation.finetuning import adapt_norms, fine_tune
from cfamc_ray.evaluation.measurement import Measurement
from cfamc_ray.evaluation.protocols import run_protocol
from cfamc_ray.method.encoder import SelfSupervisedEncoder

VIT = EncoderConfig.model_validate(
    {"architecture": "vit", "width": 4, "prefeature_width": 8, "hidden_width": 8, "embedding_width": 4}
)


def new_encoder(config: EncoderConfig = ENCODER) -> SelfSupervisedEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SelfSupervisedEncoder(config).eval().requires_grad_(False)


def classifier_of(encoder: SelfSupervisedEncoder, features: str = "prefeature") -> LinearClassifier:
    width = ENCODER.prefeature_width if features == "prefeature" else encoder.backbone.width
    with torch.random.fork_rng():
        torch.manual_seed(1)
        head = nn.Linear(width, CLASSES).requires_grad_(False)
    return LinearClassifier(encoder, head, features=features)


def tuned(classifier: LinearClassifier, images: LabelledImages = TRAIN, **keys: Any) -> list[float]:
    config = FinetuneConfig.model_validate({"layers": "all", "epochs": 4, "batch_images": 20, "lr": 0.05, **keys})
    return fine_tune(classifier, images, config, norm="linf", generator=torch.Generator().manual_seed(0))


def changed(before: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(before[name], value)}


@pytest.mark.parametrize("layers", ["last_block", "all"])
@pytest.mark.parametrize("training", ["standard", "adversarial"])
@pytest.mark.parametrize("features", ["prefeature", "backbone"])
def test_it_lowers_the_training_loss(layers: str, training: str, features: str) -> None:
    classifier = classifier_of(new_encoder(), features)
    radius: dict[str, Any] = {"epsilon": 0.01} if training == "adversarial" else {}
    losses = tuned(classifier, layers=layers, training=training, epochs=8, **radius)
    assert len(losses) == 8
    assert losses[-1] < 0.8 * losses[0]
    assert all(map(math.isfinite, losses))
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert not any(module.training for module in classifier.encoder.modules())


@pytest.mark.parametrize(
    ("config", "stays"),
    [(ENCODER, ("backbone.stem", "backbone.stages.9.shortcut_", "projector")), (VIT, ("backbone.stem", "projector"))],
    ids=["resnet18", "vit"],
)
def test_the_last_block_alone_changes_with_what_comes_after_it(config: EncoderConfig, stays: tuple[str, ...]) -> None:
    encoder = new_encoder(config)
    classifier, before = classifier_of(encoder), copy.deepcopy(encoder.state_dict())
    tuned(classifier, layers="last_block")
    names = changed(before, encoder)
    last = "backbone.stages.9." if config is ENCODER else "backbone.blocks."
    assert {name for name in names if name.startswith("prefeature.")}
    inside = {name for name in names if name.startswith(last)}
    assert inside
    assert {name for name in names - inside if not name.startswith("prefeature.")} == set()
    assert not [name for name in names if name.startswith(stays)]
    if config is VIT:
        assert {name.split(".")[2] for name in inside} == {"11", "12"}, "the last of 12 blocks, and the norm after it"


def test_all_of_it_changes_but_the_projector_which_no_head_reads() -> None:
    encoder = new_encoder()
    before = copy.deepcopy(encoder.state_dict())
    tuned(classifier_of(encoder))
    same = before.keys() - changed(before, encoder)
    assert {name for name in same if not name.startswith("projector.")} <= {"prefeature.0.bias"}, "a norm removes it"
    assert changed(before, encoder) - same


def test_the_generator_alone_decides() -> None:
    first, second = (tuned(classifier_of(new_encoder()), training="adversarial") for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("count", "batch", "sizes"), [(60, 20, {20}), (60, 128, {60}), (7, 3, {3, 4}), (3, 2, {3})])
def test_no_minibatch_is_smaller_than_asked_unless_there_are_fewer_images(
    count: int, batch: int, sizes: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    monkeypatch.setattr(attacks, "pgd", attack := Calls())
    tuned(classifier_of(new_encoder()), TRAIN.take(torch.arange(count)), batch_images=batch, training="adversarial")
    seen = {len(call["labels"]) for call in attack}
    assert seen == sizes
    assert sum(len(call["labels"]) for call in attack) == 4 * count


def test_attacks_see_the_network_in_evaluation_mode_and_compute_no_gradients_of_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def watch(target: LinearClassifier, images: torch.Tensor, labels: torch.Tensor, **settings: Any) -> torch.Tensor:
        assert not any(module.training for module in target.encoder.modules())
        assert not any(parameter.requires_grad for parameter in target.parameters())
        return images

    monkeypatch.setattr(attacks, "pgd", attack := Calls(watch))
    adversarial = tuned(classifier_of(new_encoder()), training="adversarial")
    assert len(attack) == 4 * 3
    assert adversarial == tuned(classifier_of(new_encoder())), "an attack that changes nothing is standard training"


@pytest.fixture(scope="module")
def from_scratch() -> dict[str, list[Measurement]]:
    """Clean and attacked accuracy on digits of an untrained encoder that was fine-tuned in both ways."""
    source, radius = read_source(parse_data(name="digits", image_size=8)), 24 / 255
    training, test = (split.take(torch.arange(count)) for split, count in ((source.train, 400), (source.test, 200)))
    finetune = {"layers": "all", "epochs": 10, "batch_images": 40, "lr": 0.05}
    attack = {"epsilon": radius, "attack": {"steps": 4, "step_size": radius / 2.5}}
    encoder, found = new_encoder(), {}
    before = copy.deepcopy(encoder.state_dict())
    for how in ("standard", "adversarial"):
        keys = {
            "finetune": {**finetune, "training": how, **(attack if how == "adversarial" else {})},
            "epsilons": [radius],
            "margin_check": False,
        }
        protocol = tiny(**keys, attack={"steps": 10, "step_size": radius / 4})
        found[how] = list(run_protocol(encoder, training, test, classes=10, protocol=protocol, crops=CROPS))
    assert changed(before, encoder) == set(), "its weights are restored"
    return found


@pytest.mark.slow
def test_fine_tuning_of_initial_weights_is_supervised_training(from_scratch: dict[str, list[Measurement]]) -> None:
    assert from_scratch["standard"][0].accuracy > 0.8


@pytest.mark.slow
def test_adversarial_training_is_more_robust_and_less_accurate(from_scratch: dict[str, list[Measurement]]) -> None:
    (clean, attacked), (adversarial_clean, adversarial_attacked) = from_scratch.values()
    assert adversarial_attacked.accuracy > attacked.accuracy + 0.2
    assert adversarial_clean.accuracy < clean.accuracy


def test_with_adapted_norms_a_minibatch_has_the_features_on_which_the_head_is_fitted() -> None:
    pixels, gaps = TRAIN.images_NCHW[:].float() / 255, {}
    for adapted in (False, True):
        classifier = classifier_of(new_encoder())
        if adapted:
            adapt_norms(classifier, TRAIN, FinetuneConfig(layers="all"))
        with torch.no_grad():
            fitted_on = classifier.features_of(pixels)
            classifier.encoder.train()
            gaps[adapted] = float((classifier.features_of(pixels) - fitted_on).abs().mean())
        assert {module.momentum for module in classifier.encoder.modules() if hasattr(module, "momentum")} == {0.1}
    assert gaps[True] < gaps[False] / 5


def test_norms_before_the_last_block_keep_their_statistics() -> None:
    encoder = new_encoder()
    before = copy.deepcopy(encoder.state_dict())
    adapt_norms(classifier_of(encoder), TRAIN, FinetuneConfig(layers="last_block"))
    names = changed(before, encoder)
    assert names
    assert all(name.startswith(("backbone.stages.9.", "prefeature.")) for name in names)
    assert all(name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked") for name in names)


def test_a_loss_that_is_not_finite_is_named_with_its_remedy() -> None:
    with pytest.raises(FloatingPointError, match=r"not finite in epoch \d: lower finetune.lr"):
        tuned(classifier_of(new_encoder()), lr=1e30)


def test_the_protocol_reports_losses_and_progress() -> None:
    losses: list[Any] = []
    progress: list[tuple[str, float, int, int]] = []
    settings: dict[str, Any] = {"classes": CLASSES, "crops": CROPS, "on_losses": losses.append}
    protocol = tiny(finetune={"layers": "all", "epochs": 3}, epsilons=[])
    found = list(
        run_protocol(
            new_encoder(), TRAIN, TEST, protocol=protocol, **settings, on_progress=lambda *at: progress.append(at)
        )
    )
    assert len(found) == 1
    assert [len(each) for each in losses] == [3]
    assert progress == [("fine-tuning, epochs", 0.0, done, 3) for done in range(4)]
