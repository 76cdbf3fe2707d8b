"""The undocumented choices of the published code, each pinned through a whole trial of a recipe in either variant."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cfamc_ray.config.recipes import VARIANTS, Variant, read_recipe
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.splits import load_splits
from cfamc_ray.method.losses import emp_ssl_loss
from cfamc_ray.training.trial import Trial

EPSILON, STEP = 8 / 255, 0.01
IN_BOTH_DIALECTS = pytest.mark.parametrize("variant", VARIANTS)
FREE_RECIPES = pytest.mark.parametrize("name", ["cf-amc-ssl", "emp-ssl-patches-free", "simclr-crops-free"])
PGD_RECIPES = pytest.mark.parametrize("name", ["emp-ssl-crops-pgd", "simclr-crops-pgd"])


def tiny(name: str, variant: Variant, **changes: Any) -> TrialConfig:
    """A recipe on 12 digits, 3 minibatches an epoch, in float64, with nothing else of it changed."""
    config = read_recipe(name).trial(variant)
    return config.with_values(
        {
            "data.name": "digits",
            "data.image_size": 8,
            "data.pretrain_images": 12,
            "data.probe_images": 20,
            "data.validation_images": 0,
            "crops.views": min(config.crops.views, 3),
            "crops.size": 8,
            "encoder.width": 4,
            "encoder.prefeature_width": 8,
            "encoder.hidden_width": 8,
            "encoder.embedding_width": 6,
            "pretraining.epochs": 1,
            "pretraining.batch_images": 4,
            "pretraining.precision": "float64",
            **changes,
        }
    )


class Watched:
    """A trial, trained to its end, and all that was seen of it on the way.

    Args:
        config: of the trial.
        monkeypatch: of the test.
    """

    def __init__(self, config: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = config
        self.trial = Trial(config, load_splits(config.data))
        self.crops: list[Tensor] = []
        self.deltas: list[Tensor] = []
        self.encoders: list[nn.Module] = []
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.rates: list[float] = []
        self.gradients: list[dict[str, Tensor]] = []
        update, advance = self.trial.trainer.update, self.trial.trainer.scheduler.step
        V, B = config.crops.views, config.pretraining.batch_images

        def watched_update(crops_VBCHW: Tensor, labels_B: Tensor | None) -> Tensor:
            self.crops.append(crops_VBCHW.clone())
            self.encoders.append(copy.deepcopy(self.trial.trainer.encoder))
            self.gradients.append({})
            losses = update(crops_VBCHW, labels_B)
            self.deltas.append(self.trial.trainer.delta_VbCHW.clone())
            return losses

        def watched_advance() -> None:
            self.rates.append(self.trial.trainer.optimizer.param_groups[0]["lr"])
            advance()

        def before_the_step(_: Optimizer, *__: Any) -> None:
            if not self.gradients[-1]:  # LARS changes them in place
                named = self.trial.trainer.encoder.named_parameters()
                self.gradients[-1].update({name: p.grad.clone() for name, p in named if p.grad is not None})

        parts: list[tuple[Tensor, Tensor]] = []

        def of_a_call(_: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> None:
            parts.append((inputs[0].detach().clone(), outputs.detach().clone()))
            if sum(len(z_ND) for _, z_ND in parts) == V * B:
                x_NCHW, z_ND = (torch.cat(part) for part in zip(*parts, strict=True))
                self.inputs.append(x_NCHW.unflatten(0, (V, B)))
                self.outputs.append(z_ND.unflatten(0, (V, B)))
                parts.clear()

        monkeypatch.setattr(self.trial.trainer, "update", watched_update)
        monkeypatch.setattr(self.trial.trainer.scheduler, "step", watched_advance)
        self.trial.trainer.optimizer.register_step_pre_hook(before_the_step)
        hook = self.trial.trainer.encoder.register_forward_hook(of_a_call)
        self.rows = list(self.trial)
        hook.remove()
        assert not parts

    @property
    def passes(self) -> int:
        """Of all crops through the encoder, in each minibatch."""
        assert len(self.inputs) % len(self.crops) == 0
        return len(self.inputs) // len(self.crops)

    def inputs_of(self, minibatch: int) -> list[Tensor]:
        """What the encoder was shown in a minibatch, pass by pass."""
        return self.inputs[minibatch * self.passes : (minibatch + 1) * self.passes]


def cosine(update: int, horizon: int) -> float:
    return 0.3 * (1 + math.cos(math.pi * update / horizon)) / 2


@pytest.mark.parametrize("replays", [1, 2, 3, 4])
@IN_BOTH_DIALECTS
def test_the_published_rate_ends_at_zero_for_odd_replays_alone_and_the_sane_one_for_all(
    variant: Variant, replays: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("cf-amc-ssl", variant, **{"pretraining.replays": replays, "pretraining.epochs": 2})
    watched = Watched(config, monkeypatch)
    minibatches = 2 * 3
    horizon = minibatches if variant == "published" else minibatches * replays
    assert watched.rates == pytest.approx([cosine(k, horizon) for k in range(minibatches * replays)], abs=1e-15)
    assert [row.learning_rate for row in watched.rows] == pytest.approx(
        [cosine(3 * replays, horizon), cosine(6 * replays, horizon)], abs=1e-15
    )
    even = variant == "published" and replays % 2 == 0
    assert watched.rows[-1].learning_rate == pytest.approx(0.3 if even else 0.0, abs=1e-15)


@IN_BOTH_DIALECTS
def test_the_rate_of_a_pgd_baseline_falls_to_zero_in_either_variant(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tiny("emp-ssl-crops-pgd", variant), monkeypatch)
    assert watched.rates == pytest.approx([cosine(k, 3) for k in range(3)], abs=1e-15)
    assert watched.rows[-1].learning_rate == pytest.approx(0, abs=1e-15)


def nt_xent(z_VBD: Tensor, temperature: float) -> Tensor:
    """Anchor by anchor, as the paper writes it."""
    z_ND = z_VBD.flatten(0, 1)
    N = len(z_ND)
    terms = []
    for i in range(N):
        similarity_N = z_ND @ z_ND[i] / temperature
        others = torch.arange(N) != i
        terms.append(similarity_N[others].logsumexp(0) - similarity_N[(i + N // 2) % N])
    return torch.stack(terms).mean()


def loss_of(config: TrialConfig, z_VBD: Tensor) -> Tensor:
    if config.loss.component_name() == "nt_xent":
        return nt_xent(z_VBD, 0.07)
    return emp_ssl_loss(z_VBD, invariance_weight=200, rate_weight=1, epsilon=0.2)


def passes_by_hand(
    config: TrialConfig, encoder: nn.Module, crops_VBCHW: Tensor, *, attack_in_train_mode: bool, with_itself: bool
) -> tuple[list[list[Tensor]], Tensor]:
    """Five ascents from zero and the update's pass, at the same weights: the gradients of each, and the delta."""
    delta_VBCHW, gradients = torch.zeros_like(crops_VBCHW), []
    V, B = crops_VBCHW.shape[:2]
    for step in range(6):
        encoder.train(attack_in_train_mode or step == 5)
        delta_VBCHW.requires_grad_()
        partner_VBCHW = crops_VBCHW if step == 5 or not with_itself else torch.stack([crops_VBCHW[1]] * 2)
        perturbed_NCHW = (partner_VBCHW + delta_VBCHW).flatten(0, 1)
        together = B * (1 if config.loss.component_name() == "nt_xent" else V)  # SimCLR's views have a batch norm each
        z_ND = torch.cat([encoder(part_NCHW) for part_NCHW in perturbed_NCHW.split(together)])
        loss = loss_of(config, z_ND.unflatten(0, (V, B)))
        *of_weights, of_delta = torch.autograd.grad(loss, [*encoder.parameters(), delta_VBCHW])
        gradients.append(of_weights)
        if step < 5:
            delta_VBCHW = (delta_VBCHW.detach() + STEP * of_delta.sign()).clamp(-EPSILON, EPSILON)
            delta_VBCHW = (crops_VBCHW + delta_VBCHW).clamp(0, 1) - crops_VBCHW
            delta_VBCHW[[radius == 0 for radius in config.perturbation.radii(V)]] = 0
    return gradients, delta_VBCHW.detach()


@pytest.mark.parametrize(
    ("variant", "attack_in_train_mode"),
    [("published", True), ("published", False), ("corrected", True), ("corrected", False)],
)
@PGD_RECIPES
def test_a_published_pgd_update_adds_the_gradients_of_its_attack_and_a_sane_one_does_not(
    name: str, variant: Variant, attack_in_train_mode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(name, variant, **{"perturbation.attack_in_train_mode": attack_in_train_mode})
    watched = Watched(config, monkeypatch)
    assert watched.passes == 6
    for minibatch, crops_VBCHW in enumerate(watched.crops):
        encoder = watched.encoders[minibatch]
        gradients, delta_VBCHW = passes_by_hand(
            config,
            encoder,
            crops_VBCHW,
            attack_in_train_mode=attack_in_train_mode,
            with_itself=variant == "published" and name == "simclr-crops-pgd",
        )
        torch.testing.assert_close(watched.deltas[minibatch], delta_VBCHW, rtol=0, atol=1e-12)
        counted = gradients if variant == "published" else gradients[-1:]
        for (weight, _), of_passes in zip(encoder.named_parameters(), zip(*counted, strict=True), strict=True):
            torch.testing.assert_close(
                watched.gradients[minibatch][weight], torch.stack(of_passes).sum(0), rtol=1e-9, atol=1e-9
            )
        after = watched.encoders[minibatch + 1] if minibatch < 2 else watched.trial.trainer.encoder
        statistics = dict(after.named_buffers())
        for buffer, by_hand in encoder.named_buffers():
            torch.testing.assert_close(statistics[buffer], by_hand, rtol=1e-9, atol=1e-12)


def test_the_two_dialects_of_a_pgd_update_differ_by_much(monkeypatch: pytest.MonkeyPatch) -> None:
    published, corrected = (Watched(tiny("emp-ssl-crops-pgd", d), monkeypatch).gradients[0] for d in VARIANTS[::-1])
    gaps = [
        (published[name] - corrected[name]).norm() / corrected[name].norm()
        for name in corrected
        if corrected[name].ndim > 1
    ]
    assert min(gaps) > 0.5


@pytest.mark.parametrize(
    ("name", "changes", "per_minibatch"),
    [
        ("emp-ssl-crops-pgd", {}, 6),
        ("simclr-crops-pgd", {}, 6 * 2),
        ("emp-ssl-crops-pgd", {"perturbation.attack_in_train_mode": False}, 1),
        ("simclr-crops-pgd", {"perturbation.attack_in_train_mode": False}, 2),
        ("cf-amc-ssl", {}, 3),
        ("simclr-crops-free", {}, 3 * 2),
        ("emp-ssl-crops", {}, 1),
        ("simclr-crops", {}, 2),
    ],
)
@IN_BOTH_DIALECTS
def test_batch_norm_counts_every_pass_in_train_mode_and_both_views_of_simclr(
    variant: Variant, name: str, changes: dict[str, Any], per_minibatch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Watched(tiny(name, variant, **changes), monkeypatch).trial
    buffers = trial.trainer.encoder.named_buffers()
    counts = [buffer.item() for key, buffer in buffers if key.endswith("num_batches_tracked")]
    assert counts
    assert set(counts) == {3 * per_minibatch}


def outside(pixels: Tensor) -> bool:
    return bool(((pixels < -1e-12) | (pixels > 1 + 1e-12)).any())


@FREE_RECIPES
@IN_BOTH_DIALECTS
def test_only_the_first_replay_of_a_published_minibatch_sees_pixels_outside_the_box(
    variant: Variant, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tiny(name, variant), monkeypatch)
    assert watched.passes == 3
    outsiders = [[outside(shown) for shown in watched.inputs_of(minibatch)] for minibatch in range(3)]
    carried = [variant == "published", False, False]
    assert outsiders == [[False] * 3, carried, carried]


@FREE_RECIPES
@IN_BOTH_DIALECTS
def test_a_free_perturbation_is_carried_by_position_onto_the_next_crops(
    variant: Variant, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tiny(name, variant, **{"pretraining.epochs": 2}), monkeypatch)
    assert torch.equal(watched.inputs_of(0)[0], watched.crops[0])
    for minibatch in range(1, 6):  # also from one epoch to the next
        crops_VBCHW, before_VBCHW = watched.crops[minibatch], watched.deltas[minibatch - 1]
        assert before_VBCHW.any()
        shown_VBCHW = crops_VBCHW + before_VBCHW
        if variant == "corrected":
            shown_VBCHW = shown_VBCHW.clamp(0, 1)
        torch.testing.assert_close(watched.inputs_of(minibatch)[0], shown_VBCHW, rtol=0, atol=1e-15)


@FREE_RECIPES
@IN_BOTH_DIALECTS
def test_no_perturbation_leaves_its_ball_and_a_replay_moves_it_by_a_hundredth_at_most(
    variant: Variant, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tiny(name, variant), monkeypatch)
    assert watched.deltas[0].abs().max().item() == pytest.approx(3 * STEP)
    assert watched.deltas[-1].abs().max().item() == pytest.approx(EPSILON)
    for minibatch in range(3):
        first, second, third = watched.inputs_of(minibatch)
        assert (third - second).abs().max() <= STEP + 1e-12
        if minibatch == 0 or variant == "corrected":  # else the box pulls the first ones back
            assert (second - first).abs().max() <= STEP + 1e-12


@PGD_RECIPES
@IN_BOTH_DIALECTS
def test_the_attack_of_a_pgd_recipe_starts_each_minibatch_at_zero_and_stays_in_the_box(
    variant: Variant, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tiny(name, variant), monkeypatch)
    for minibatch, crops_VBCHW in enumerate(watched.crops):
        first, *others = watched.inputs_of(minibatch)
        assert torch.equal(first[1:], crops_VBCHW[1:])
        assert not any(outside(shown) for shown in others)
        assert watched.deltas[minibatch].abs().max().item() == pytest.approx(EPSILON)


@pytest.mark.parametrize(("name", "passes"), [("simclr-crops-free", 3), ("simclr-crops-pgd", 6)])
@IN_BOTH_DIALECTS
def test_simclr_contrasts_an_untouched_view_with_a_perturbed_one(
    variant: Variant, name: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tiny(name, variant), monkeypatch)
    assert watched.passes == passes
    for minibatch, crops_VBCHW in enumerate(watched.crops):
        clean_BCHW, perturbed_BCHW = watched.deltas[minibatch]
        assert not clean_BCHW.any()
        assert perturbed_BCHW.flatten(1).any(1).all()
        for position, shown_VBCHW in enumerate(watched.inputs_of(minibatch)):
            with_itself = variant == "published" and passes == 6 and position < 5
            assert torch.equal(shown_VBCHW[0], crops_VBCHW[int(with_itself)])
        assert not torch.equal(watched.inputs_of(minibatch)[-1][1], crops_VBCHW[1])
    updates = watched.outputs if passes == 3 else watched.outputs[5::6]
    losses = [nt_xent(z_VBD, 0.07).item() for z_VBD in updates]
    assert watched.rows[0].loss == pytest.approx(sum(losses) / len(losses), rel=1e-9)


def test_the_attack_of_published_simclr_contrasts_the_second_view_with_itself_and_the_update_with_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published = tiny("simclr-crops-pgd", "published")
    itself, first = (
        Watched(published.with_values({"perturbation.attack_positive": positive}), monkeypatch)
        for positive in ("self", "first")
    )
    assert itself.config == published
    for watched, positive in ((itself, 1), (first, 0)):
        *attack, update_VBCHW = watched.inputs_of(0)
        crops_VBCHW = watched.crops[0]
        assert all(torch.equal(shown_VBCHW[0], crops_VBCHW[positive]) for shown_VBCHW in attack)
        assert torch.equal(update_VBCHW, crops_VBCHW + watched.deltas[0])
    of_itself, of_first = (nt_xent(watched.outputs[0], 0.07) for watched in (itself, first))
    assert of_itself < of_first - 0.1  # what is compared with itself is nearer
    assert (itself.deltas[0][1] != first.deltas[0][1]).double().mean() > 0.3


@pytest.mark.parametrize("name", ["emp-ssl-crops", "simclr-crops"])
@IN_BOTH_DIALECTS
def test_without_an_attack_the_encoder_sees_the_crops_as_they_are(
    variant: Variant, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tiny(name, variant), monkeypatch)
    assert all(torch.equal(shown, crops) for shown, crops in zip(watched.inputs, watched.crops, strict=True))


@pytest.mark.parametrize("name", ["cf-amc-ssl", "emp-ssl-crops-pgd", "simclr-crops-free"])
def test_both_dialects_see_the_same_crops_from_the_same_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = (Watched(tiny(name, variant), monkeypatch) for variant in VARIANTS)
    assert all(torch.equal(a, b) for a, b in zip(ours.crops, theirs.crops, strict=True))
    first, second = ours.encoders[0].state_dict(), theirs.encoders[0].state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    one, other = (each.trial.trainer.encoder.backbone.stem.weight for each in (ours, theirs))
    assert not torch.equal(one, other)
