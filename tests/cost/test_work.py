from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_trials import tiny_config, tiny_trial
from torch.utils.flop_counter import FlopCounterMode

from cfamc_ray.config.attacks import PgdConfig
from cfamc_ray.config.data import parse_data
from cfamc_ray.config.encoder import EncoderConfig, VitConfig
from cfamc_ray.config.losses import LOSSES
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.counting import PixelGradient, crop_pass_flops, forward_flops, kept_numbers, pixel_gradient
from cfamc_ray.cost.memory import peak_memory_bytes, reset_peak_memory
from cfamc_ray.cost.work import (
    BATCH,
    BATCH_BYTES,
    attack_images,
    batch_images,
    evaluation_work,
    image_side,
    scale_remark,
    study_cost,
    training_flops,
    training_work,
)
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.evaluation.scores import search_scores
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.training.allocator import release_freed_memory

TINY = EncoderConfig(width=4, prefeature_width=8, hidden_width=12, embedding_width=6)
WIDER = TINY.model_copy(update={"width": 16})
"""On CPUs narrower ones keep some hundred numbers more: `method.convolution` selects their pixels by a pooling."""


def config(**changes: Any) -> TrialConfig:
    return TrialConfig().with_values({"data.pretrain_images": 50_000, **changes})


def test_a_crop_pass_of_the_papers_encoder_costs_3_47_gflop() -> None:
    whole, _ = crop_pass_flops(EncoderConfig(), 32)
    assert whole == pytest.approx(3.47e9, rel=0.01)


def test_a_pass_for_the_input_gradient_alone_costs_two_thirds() -> None:
    whole, attack = crop_pass_flops(EncoderConfig(), 32)
    assert attack / whole == pytest.approx(2 / 3, rel=0.01)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_tiny_encoder_costs_what_its_products_add_up_to(norm: str) -> None:
    stem = 64 * 4 * 27  # pixels x channels out x 3x3 inputs
    stages = (
        64 * 4 * (4 * 36)  # four 3x3 convolutions of 4 channels at 8x8
        + 16 * 8 * (36 + 3 * 72 + 4)  # at 4x4, the last from the shortcut
        + 4 * 16 * (72 + 3 * 144 + 8)  # at 2x2
        + 1 * 32 * (144 + 3 * 288 + 16)  # at 1x1
    )
    rows = 32 * 8 + 8 * 12 + 12 * 6
    forward = 2 * (stem + stages + rows)
    tiny = TINY.model_copy(update={"norm": norm})
    assert crop_pass_flops(tiny, 8) == (3 * forward, 2 * forward)
    assert forward_flops(tiny, 8) == forward


@pytest.mark.parametrize(("stem", "patch", "size"), [("small", 4, 32), ("small", 4, 48), ("large", 16, 64)])
def test_a_vit_costs_what_its_products_add_up_to(stem: str, patch: int, size: int) -> None:
    D, T = 3 * TINY.width, (size // patch) ** 2
    linear = T * 3 * patch**2 * D + 12 * (12 * T * D**2)  # of a block: 3 to the heads, 1 from them, 4 and 4 after them
    attention = 12 * (2 * T**2 * D)  # whose factors both depend on the input, so no pass spares half of their gradients
    rows = D * 8 + 8 * 12 + 12 * 6
    forward = 2 * (linear + attention + rows)
    vit = TINY.model_copy(update={"architecture": VitConfig(), "stem": stem})
    assert crop_pass_flops(vit, size) == (3 * forward, 2 * forward + 2 * attention)


@pytest.mark.parametrize(("architecture", "giga"), [("resnet18", 1.81), ("resnet50", 4.09), ("vit", 1.26)])
def test_the_large_stem_costs_at_224_pixels_what_is_published(architecture: str, giga: float) -> None:
    """Forward multiply-adds as torchvision lists them, and timm for DeiT-Ti, with their 1,000 classes."""
    config = EncoderConfig.model_validate({**TINY.model_dump(), "architecture": architecture, "stem": "large"})
    whole, _ = crop_pass_flops(config.model_copy(update={"width": 64}), 224)
    assert whole / 6e9 == pytest.approx(giga, rel=0.02)


def test_the_papers_run_costs_24_million_crop_passes_and_83_petaflop() -> None:
    paper = config()
    assert (paper.crops.views, paper.pretraining.replays, paper.pretraining.epochs) == (16, 3, 10)
    assert paper.crop_passes == 16 * 3 * 50_000 * 10 == pytest.approx(2.4e7, rel=0.01)
    assert training_flops(paper) == pytest.approx(83e15, rel=0.01)


@pytest.mark.parametrize("steps", [1, 5])
def test_pgd_costs_its_steps_and_one_pass_more_for_every_crop(steps: int) -> None:
    pgd = config(**{"perturbation.attack": "pgd", "perturbation.steps": steps, "pretraining.replays": 1})
    assert pgd.crop_passes_per_epoch == 16 * (steps + 1) * 50_000
    assert pgd.attack_passes_per_epoch == 16 * steps * 50_000


@pytest.mark.parametrize("keep", [True, False])
def test_attack_passes_of_pgd_cost_a_whole_pass_only_where_their_weight_gradients_are_kept(keep: bool) -> None:
    pgd = config(**{"perturbation.attack": "pgd", "pretraining.replays": 1, "perturbation.keep_attack_gradients": keep})
    whole, attack = crop_pass_flops(pgd.encoder, 32)
    per_crop = whole + 5 * (whole if keep else attack)
    losses = 10 * 6 * pgd.minibatches_per_epoch * pgd.loss.flops(16, 100, 1024)
    assert training_flops(pgd) == 10 * 16 * 50_000 * per_crop + losses


@pytest.mark.parametrize(
    "changes", [{}, {"loss.name": "sup_con"}, {"perturbation.attack": "pgd", "pretraining.replays": 1}]
)
def test_all_products_of_a_minibatch_are_counted(changes: dict[str, Any]) -> None:
    """As torch counts them; a loss of all pairs of many small embeddings makes a good part of them."""
    sizes = {"crops.views": 8, "pretraining.batch_images": 12, "encoder.embedding_width": 64, "encoder.width": 16}
    trial = tiny_config(**{"pretraining.epochs": 1, "data.validation_images": 0, **sizes, **changes})
    trainer, (V, B, S) = tiny_trial(trial).trainer, (8, 12, trial.crops.size)
    with FlopCounterMode(display=False) as counter:
        trainer.update(torch.rand(V, B, 3, S, S), torch.arange(B) % 3)
    assert training_flops(trial) == counter.get_total_flops()


@pytest.mark.parametrize(("name", "views"), [("emp_ssl", 4), ("nt_xent", 2), ("sup_con", 4)])
@pytest.mark.parametrize(("images", "width"), [(12, 64), (64, 12)])
def test_the_products_of_a_loss_are_those_that_torch_counts(name: str, views: int, images: int, width: int) -> None:
    config = LOSSES.classes[name]()
    z_VBD = torch.rand(views, images, width).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        config.build()(z_VBD, torch.arange(images) % 3).total.backward()
    assert config.flops(views, images, width) == counter.get_total_flops()


@pytest.mark.parametrize("attack", ["free", "pgd"])
def test_what_is_recomputed_costs_another_forward_pass(attack: str) -> None:
    kept = config(**{"perturbation.attack": attack, "pretraining.replays": 1, "pretraining.views_at_once": 4})
    again = kept.with_values({"pretraining.activation_checkpointing": True})
    assert again.crop_passes == kept.crop_passes
    forward = forward_flops(kept.encoder, 32)
    assert training_flops(again) - training_flops(kept) == kept.crop_passes * forward


def test_images_that_fill_no_minibatch_cost_nothing() -> None:
    assert config(**{"data.pretrain_images": 50_099}).crop_passes == config().crop_passes


@pytest.mark.parametrize("attack", ["free", "none"])
def test_free_replays_cost_as_much_as_plain_ones(attack: str) -> None:
    assert training_flops(config(**{"perturbation.attack": attack})) == training_flops(config())


def test_counting_flops_takes_no_random_numbers_and_no_memory_for_weights() -> None:
    before = torch.get_rng_state()
    crop_pass_flops.cache_clear()
    crop_pass_flops(EncoderConfig(width=512, prefeature_width=100_000, hidden_width=100_000), 64)
    assert torch.equal(torch.get_rng_state(), before)


def test_on_a_gpu_the_peak_is_what_its_allocator_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    device, reset = torch.device("cuda", 1), list[torch.device]()
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda of: {device: 7}[of])
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda _: 3)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", reset.append)
    reset_peak_memory(device)
    assert (peak_memory_bytes(device), reset) == (7, [device])


def test_peak_memory_notices_an_allocation() -> None:
    device = torch.device("cpu")
    release_freed_memory()  # what other tests left would be used again
    reset_peak_memory(device)
    before = peak_memory_bytes(device)
    torch.ones(2**28, dtype=torch.uint8)
    assert before > 2**20
    assert peak_memory_bytes(device) - before > 2**27


@pytest.mark.parametrize(
    ("values", "times"),
    [
        ({}, 1),
        ({"crops.views": 8}, 2),
        ({"pretraining.batch_images": 200}, 2),
        ({"crops.size": 64}, 4),
        ({"encoder.width": 128}, 2),
        ({"pretraining.epochs": 99, "pretraining.replays": 9, "evaluation.attacked_images": 9}, 1),
        ({"pretraining.views_at_once": 2}, 1),
        ({"pretraining.views_at_once": 2, "pretraining.activation_checkpointing": True}, 0.5),
        ({"pretraining.views_at_once": 99, "pretraining.activation_checkpointing": True}, 1),
    ],
    ids=str,
)
def test_what_is_kept_grows_with_crops_pixels_and_width_and_not_with_time(values: dict[str, Any], times: float) -> None:
    trial = TrialConfig.model_validate({"crops": {"views": 4}})
    assert training_work(trial.with_values(values)).kept == pytest.approx(times * training_work(trial).kept, rel=0.03)


def test_of_views_that_are_recomputed_only_the_pixels_are_kept() -> None:
    four = config(**{"crops.views": 4, "pretraining.views_at_once": 2, "pretraining.activation_checkpointing": True})
    more = training_work(four.with_values({"crops.views": 40})).kept - training_work(four).kept
    assert more == 36 * four.pretraining.batch_images * 4 * 3 * 32 * 32


def test_what_is_kept_is_what_a_real_forward_pass_keeps() -> None:
    """Of three crops over two, so that weights cancel."""
    encoder, sizes = SelfSupervisedEncoder(WIDER), list[int]()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    kept = []
    for crops in (2, 3):
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            encoder(torch.rand(crops, 3, 32, 32, requires_grad=True))
        kept.append(sum(sizes))
    parameters = sum(weights.numel() for weights in encoder.parameters())
    assert kept_numbers(WIDER, 32) == (kept[1] - kept[0], parameters)


@pytest.mark.parametrize("features", ["prefeature", "backbone"])
@pytest.mark.parametrize("architecture", ["resnet18", "vit"])
def test_an_evaluated_image_costs_what_a_real_frozen_encoder_takes_for_it(architecture: str, features: str) -> None:
    config = EncoderConfig.model_validate({**WIDER.model_dump(), "architecture": architecture})
    encoder = SelfSupervisedEncoder(config).eval().requires_grad_(False)
    kept, flops = [], []
    for images in (2, 3):
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        x = torch.rand(images, 3, 32, 32, requires_grad=True)
        with FlopCounterMode(display=False) as forward, torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            found = encoder.features(x, kind=features)
        with FlopCounterMode(display=False) as back:
            found.sum().backward()
        kept.append(sum(sizes))
        flops.append((forward.get_total_flops(), back.get_total_flops()))
    one = pixel_gradient(config, 32, features)
    assert (one.forward_flops, one.features) == (flops[1][0] - flops[0][0], found.shape[1])
    if architecture == "resnet18":  # a vit's attention does and keeps what its kernel needs, which devices differ in
        assert one.flops == sum(flops[1]) - sum(flops[0])
        assert one.kept == kept[1] - kept[0]


@pytest.mark.parametrize(
    ("values", "side", "crops", "number_bytes", "images"),
    [
        ({}, 32, 1, 4, 250),
        ({}, 32, 1, 8, 135),
        ({}, 32, 16, 4, 16),
        ({}, 64, 1, 4, 67),
        ({}, 224, 1, 4, 5),
        ({"stem": "large"}, 224, 1, 4, 62),
        ({"architecture": "resnet50"}, 224, 1, 4, 1),
        ({"width": 256, "architecture": "resnet50"}, 224, 1, 4, 1),
    ],
    ids=str,
)
def test_a_batch_of_an_evaluation_holds_2_gb_of_activations_at_most(
    values: dict[str, Any], side: int, crops: int, number_bytes: int, images: int
) -> None:
    encoder = EncoderConfig.model_validate(values)
    assert batch_images(encoder, side, features="prefeature", crops=crops, number_bytes=number_bytes) == images
    kept = images * crops * number_bytes * pixel_gradient(encoder, side).kept
    assert images == 1 or kept <= BATCH_BYTES
    assert images == BATCH or kept + kept / images > BATCH_BYTES


@pytest.mark.parametrize(
    ("numbers", "number_bytes", "images"),
    [
        (3 * 32**2, 4, 250),
        (40 * 3 * 32**2, 4, 250),
        (3 * 204**2, 4, 250),
        (3 * 224**2, 4, 207),
        (3 * 224**2, 8, 103),
        (10**9, 4, 1),
    ],
)
def test_a_call_of_an_attack_holds_125_mb_of_inputs_at_most(numbers: int, number_bytes: int, images: int) -> None:
    assert attack_images(numbers, number_bytes=number_bytes) == images


SEARCHED: dict[str, Any] = {
    "data.probe_images": 4000,
    "data.validation_images": 1000,
    "evaluation.attacked_images": 300,
    "evaluation.attack.steps": 7,
}


def test_a_measurement_encodes_every_image_and_attacks_every_step_at_most() -> None:
    trial, one = config(**SEARCHED), pixel_gradient(EncoderConfig(), 32)
    assert len(trial.evaluation.head.l2) == 5, "of which one attack serves all"
    # Classified at the end of each of three starts, and once for the target of the last one.
    passes, gradients = 4000 + 1000 + 300 * 4, 300 * 3 * 7
    assert evaluation_work(trial).flops == passes * one.forward_flops + gradients * one.flops
    each = trial.with_values({"evaluation.attack": PgdConfig(steps=7, restarts=2).model_dump()})
    passes, gradients = 4000 + 1000 + 5 * 300 * 3, 5 * 300 * 2 * 7  # head by head, and looked at once more
    assert evaluation_work(each).flops == passes * one.forward_flops + gradients * one.flops
    assert one.flops == pytest.approx(2 * one.forward_flops, rel=0.01)


@pytest.mark.parametrize("attack", ["margins", "pgd"], ids=["all heads at once", "head by head"])
def test_where_nothing_breaks_a_measurement_passes_as_many_images_as_are_counted(attack: str) -> None:
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(60) % 3
    images_NCHW = torch.randint(0, 50, (60, 3, 16, 16), dtype=torch.uint8, generator=generator)
    images_NCHW[torch.arange(60), labels_N] += 150
    images = LabelledImages(images_NCHW, labels_N)
    trial = TrialConfig.model_validate(
        {
            "data": {"name": "digits", "image_size": 16, "probe_images": 60, "validation_images": 60},
            "encoder": TINY.model_dump(),
            "evaluation": {
                "epsilon": 0.0,
                "attack": {"name": attack, "steps": 3},
                "attacked_images": 60,
                "head": {"l2": [1e-5, 2e-5]},
            },
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, passed = SelfSupervisedEncoder(TINY), list[int]()
    encoder.backbone.register_forward_pre_hook(lambda _, inputs: passed.append(len(inputs[0])))
    found = search_scores(encoder, images, images, classes=3, config=trial.evaluation, generator=generator)
    assert [point.robust_accuracy for point in found.points] == [1, 1], "nothing breaks"
    one = pixel_gradient(TINY, 16)
    back = (3 if attack == "margins" else 2) * 60 * 3 * (one.flops - one.forward_flops)  # starts, or heads
    assert evaluation_work(trial).flops == sum(passed) * one.forward_flops + back


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (
            {"evaluation.batch_images": 10, "data.probe_images": 9},
            lambda one: 1009 * 4096 + 6 * 250 * 3 * 32**2 + 10 * one.kept,
        ),
        ({}, lambda one: 5000 * 4096 + 6 * 250 * 3 * 32**2 + 250 * one.kept),
        ({"evaluation.attacked_images": 10}, lambda one: 13_000 * 4096),
        ({"data.validation_images": 200_000, "data.probe_images": 9}, lambda one: 400_009 * 4096),
    ],
    ids=["small batch", "default", "the fit", "many validation images"],
)
def test_a_measurement_holds_all_features_and_what_encoding_fit_or_attack_needs(
    values: dict[str, Any], kept: Callable[[PixelGradient], int]
) -> None:
    trial = config(**{**SEARCHED, **values})
    assert evaluation_work(trial).kept == kept(pixel_gradient(EncoderConfig(), 32))
    assert training_work(trial).evaluation_kept == evaluation_work(trial).kept
    assert training_work(trial).evaluation_flops == evaluation_work(trial).flops


def test_what_is_not_measured_costs_nothing() -> None:
    assert evaluation_work(config(**{"data.validation_images": 0})) == (0, 0, 0)


def test_a_transfer_is_counted_by_the_images_that_it_is_judged_on() -> None:
    other = {"name": "digits", "image_size": 64, "probe_images": 500, "validation_images": 100}
    trial = TrialConfig.model_validate(
        {"evaluation": {"transfer": other, "attacked_images": 50, "attack": {"steps": 1}}}
    )
    one = pixel_gradient(EncoderConfig(), 64)
    assert evaluation_work(trial).flops == (500 + 100 + 50 * 4) * one.forward_flops + 50 * 3 * one.flops
    assert evaluation_work(trial).batch_images == 67


def test_images_of_a_file_are_as_large_as_they_are(tmp_path: Path) -> None:
    data = parse_data(name="npz", path=str(tmp_path / "images.npz"))
    assert image_side(data) == 32, "it is not here yet"
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    labels = np.arange(4) % 2
    np.savez(tmp_path / "images.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    assert image_side(data) == 20
    assert [image_side(parse_data(name=name)) for name in ("cifar10", "cifar100")] == [32, 32]
    assert image_side(parse_data(name="digits", image_size=24)) == 24


@pytest.mark.parametrize(
    ("size", "side", "said"), [(32, 64, False), (32, 16, False), (32, 72, True), (32, 8, True), (96, 96, False)]
)
def test_crops_and_images_that_differ_by_more_than_a_factor_of_2_are_warned_of(
    size: int, side: int, said: bool
) -> None:
    remark = scale_remark(size, parse_data(name="digits", image_size=side))
    assert bool(remark) is said
    assert (
        not said or f"crops of {size} pixels a side (crops.size) but is evaluated on whole images of {side}" in remark
    )


def test_the_cost_of_a_study_names_its_evaluation_and_its_largest_batch() -> None:
    few = config(**SEARCHED, **{"pretraining.epochs": 4, "evaluation.every_epochs": 3})
    many = few.with_values({"evaluation.batch_images": 20, "data.probe_images": 8000, "pretraining.epochs": 1})
    cost = study_cost([few, many])
    flops = [evaluation_work(trial).flops * times for trial, times in ((few, 2), (many, 1))]
    assert cost.evaluation_flops_mean == sum(flops) / 2
    assert (cost.batches, cost.evaluation_bytes) == ((20, 250), 4 * evaluation_work(few).kept)
    assert cost.evaluation(10) == (
        f"evaluation: up to {5 * sum(flops):.3g} FLOPs, batches of 20 to 250 images, up to "
        f"{4e-9 * evaluation_work(few).kept:.2g} GB of memory besides the weights"
    )
    assert study_cost([config(**{"data.validation_images": 0})]).evaluation() == ""


def test_activations_are_those_of_all_crop_passes() -> None:
    trial = config(**{"pretraining.replays": 3, "pretraining.epochs": 2})
    work = training_work(trial)
    each, parameters = kept_numbers(trial.encoder, trial.crops.size)
    assert (work.activations, work.parameters) == (trial.crop_passes * each, parameters)
    assert work.flops == training_flops(trial)
