import math
from pathlib import Path

import pytest
import torch

from cfamc_ray.config import recipes
from cfamc_ray.config.components import branch
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.losses import NtXentConfig
from cfamc_ray.config.recipes import VARIANTS, Variant, read_recipe, recipe_names
from cfamc_ray.config.trial import TrialConfig, lay_trials, trial_keys
from cfamc_ray.method.optimizer import build_optimizer, build_scheduler

PUBLISHED = {
    "emp-ssl-patches-pgd": ((61, 37.65, 16.95), (39.26, 14.38, 4.22), 530),
    "emp-ssl-crops-pgd": ((76.55, 53.3, 28.49), (51.71, 33.88, 19.35), 530),
    "simclr-crops-pgd": ((72.86, 47.98, 16.81), (44.57, 19.84, 5.68), 934),
    "simclr-patches-pgd": ((65.44, 41.85, 17.19), (43.71, 21.87, 8.33), 934),
    "emp-ssl-patches-free": ((61.83, 42.28, 21.53), (40.31, 23.78, 12.13), 97),
    "simclr-crops-free": ((70.25, 48.34, 24.5), (47.64, 26.53, 11.7), 157),
    "cf-amc-ssl": ((75.88, 55.97, 33.34), (50.74, 31.73, 17.19), 97),
}
UNPUBLISHED = ["emp-ssl-crops", "emp-ssl-patches", "simclr-crops", "simclr-patches", "simclr-patches-free"]
EVERY = pytest.mark.parametrize("name", recipe_names())
IN_BOTH_DIALECTS = pytest.mark.parametrize("variant", VARIANTS)


def trial(name: str, variant: Variant = "corrected") -> TrialConfig:
    return read_recipe(name).trial(variant)


def test_there_is_a_recipe_for_every_published_row_and_its_relatives() -> None:
    assert sorted(recipe_names()) == sorted([*PUBLISHED, *UNPUBLISHED])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rows_are_those_of_the_paper(name: str) -> None:
    published = read_recipe(name).published
    assert published is not None
    assert (tuple(published.cifar10), tuple(published.cifar100), published.minutes) == PUBLISHED[name]
    assert published.cifar10.clean > published.cifar10.robust_4 > published.cifar10.robust_8


@pytest.mark.parametrize("name", UNPUBLISHED)
def test_what_is_not_published_has_no_row(name: str) -> None:
    assert read_recipe(name).published is None


@EVERY
@IN_BOTH_DIALECTS
def test_a_recipe_is_a_trial_in_either_variant(name: str, variant: Variant) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.summary.endswith(".")
    assert TrialConfig.model_validate(recipe.tree(variant)) == recipe.trial(variant)


@EVERY
@IN_BOTH_DIALECTS
def test_a_name_says_what_is_trained(name: str, variant: Variant) -> None:
    config = trial(name, variant)
    simclr, patches = name.startswith("simclr"), "patches" in name
    attack = (
        "free" if name == "cf-amc-ssl" else name.rpartition("-")[2].replace("crops", "none").replace("patches", "none")
    )
    assert config.perturbation.attack == attack
    assert (config.loss.component_name(), config.crops.views) == (("nt_xent", 2) if simclr else ("emp_ssl", 16))
    assert (config.crops.scale, config.crops.ratio) == (
        ((0.25, 0.25), (1, 1)) if patches else ((0.08, 1), (3 / 4, 4 / 3))
    )
    epochs, replays = {
        (False, "free"): (10, 3),
        (False, "pgd"): (30, 1),
        (False, "none"): (30, 1),
        (True, "free"): (167, 3),
        (True, "pgd"): (500, 1),
        (True, "none"): (500, 1),
    }[simclr, attack]
    assert (config.pretraining.epochs, config.pretraining.replays) == (epochs, replays)
    assert config.pretraining.batch_images == (512 if simclr else 100 if attack == "free" else 128)
    if attack == "none":
        assert config.perturbation.radii(2) == [0, 0]
    else:
        assert config.perturbation.radii(2) == [0 if simclr else 8 / 255, 8 / 255]
        assert config.perturbation.starts_anew is (attack == "pgd")
        assert config.value_of("perturbation.step_size") == pytest.approx(0.01)
        assert config.perturbation.attack_passes == (5 if attack == "pgd" else 0)
    if simclr:
        assert (config.encoder.embedding_width, config.crops.hue) == (128, 0.1)
        assert config.loss == NtXentConfig(temperature=0.07)
        assert config.crops.blur_probability == config.crops.solarize_probability == 0
    else:
        assert (config.encoder.embedding_width, config.crops.hue) == (1024, 0.2)


def test_the_sane_cf_amc_ssl_is_the_default_trial() -> None:
    assert trial("cf-amc-ssl") == TrialConfig()


@pytest.mark.parametrize(
    ("name", "passes_per_epoch"),
    [
        ("cf-amc-ssl", 16 * 3 * 50_000),
        ("emp-ssl-patches-free", 16 * 3 * 50_000),
        ("emp-ssl-crops", 16 * 390 * 128),
        ("emp-ssl-crops-pgd", 16 * (5 + 1) * 390 * 128),
        ("emp-ssl-patches-pgd", 16 * (5 + 1) * 390 * 128),
        ("simclr-crops", 2 * 97 * 512),
        ("simclr-crops-pgd", 2 * (5 + 1) * 97 * 512),
        ("simclr-crops-free", 2 * 3 * 97 * 512),
    ],
)
def test_crop_passes_follow_from_views_replays_and_attack_steps(name: str, passes_per_epoch: int) -> None:
    config = trial(name, "published")
    assert config.crop_passes_per_epoch == passes_per_epoch
    assert config.crop_passes == passes_per_epoch * config.pretraining.epochs


def test_the_papers_run_has_24_million_crop_passes() -> None:
    assert trial("cf-amc-ssl", "published").crop_passes == 24_000_000


@EVERY
def test_the_published_variant_changes_the_hidden_choices_alone(name: str) -> None:
    corrected, published = trial(name), trial(name, "published")
    changed = {
        key: published.value_of(key) for key in trial_keys() if corrected.value_of(key) != published.value_of(key)
    }
    assert changed == {
        "data.pretrain_images": 50_000,
        "data.probe_images": 50_000,
        "data.validation_images": 0,
        "encoder.synchronize_norm": False,
        "optimizer.schedule": "minibatches",
        "pretraining.precision": "float32",
        **({"perturbation.project_first": False} if published.perturbation.attack == "free" else {}),
        **({"perturbation.keep_attack_gradients": True} if published.perturbation.attack == "pgd" else {}),
        **({"perturbation.attack_positive": "self"} if name.startswith("simclr") and name.endswith("pgd") else {}),
    }
    assert published.value_of("perturbation.attack_in_train_mode") is not False
    assert published.evaluation.head.features == "prefeature"


@pytest.mark.parametrize(
    ("variant", "replays", "rate_at_the_end"),
    [
        ("published", 1, 0),
        ("published", 3, 0),
        ("published", 2, 0.3),
        ("published", 12, 0.3),
        ("corrected", 3, 0),
        ("corrected", 2, 0),
    ],
)
def test_the_published_cosine_ends_at_zero_for_odd_replays_and_at_the_full_rate_for_even_ones(
    variant: Variant, replays: int, rate_at_the_end: float
) -> None:
    config = trial("cf-amc-ssl", variant).with_values({"pretraining.replays": replays, "pretraining.epochs": 1})
    horizon = config.updates if variant == "corrected" else config.updates // replays
    optimizer = build_optimizer([torch.zeros(2, 2)], lr=config.optimizer.lr)
    scheduler = build_scheduler(optimizer, horizon=horizon)
    assert scheduler.lr_lambdas[0](config.updates) * config.optimizer.lr == pytest.approx(rate_at_the_end)
    assert {"corrected": "updates", "published": "minibatches"}[variant] == config.optimizer.schedule


@EVERY
def test_the_rate_ends_at_zero_in_either_variant_as_all_published_replays_are_odd(name: str) -> None:
    for variant in VARIANTS:
        config = trial(name, variant)
        horizon = config.updates if variant == "corrected" else config.updates // config.pretraining.replays
        assert 1 + math.cos(math.pi * config.updates / horizon) == pytest.approx(0)


@EVERY
def test_long_schedules_are_not_measured_every_epoch(name: str) -> None:
    config = trial(name)
    assert sum(config.evaluates(epoch) for epoch in range(1, config.pretraining.epochs + 1)) <= 30


@EVERY
def test_nothing_is_written_that_the_bases_or_the_defaults_have_already(name: str) -> None:
    recipe = read_recipe(name)
    bases: dict[str, object] = {}
    for base in recipe.base:
        bases = lay_trials(bases, read_recipe(base).tree())
    for section, keys in recipe.differences.items():
        for key, value in keys.items():
            assert bases.get(section, {}).get(key) != value, (section, key)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "nearest"), [("cf-amc", "cf-amc-ssl"), ("emp-ssl-crop", "emp-ssl-crops"), ("simclr", "simclr-crops")]
)
def test_an_unknown_recipe_is_refused_with_the_nearest_and_all_that_there_are(name: str, nearest: str) -> None:
    with pytest.raises(InputError) as caught:
        read_recipe(name)
    assert str(caught.value) == (
        f"there is no recipe {name!r}: did you mean {nearest}? There are {', '.join(recipe_names())}"
    )


@pytest.mark.parametrize("name", ["zzz", "", "../trial", "variants/published"])
def test_a_name_that_is_near_none_is_refused_with_all_that_there_are(name: str) -> None:
    with pytest.raises(InputError, match=f"^there is no recipe '{name}': there are cf-amc-ssl, "):
        read_recipe(name)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("trial: {crops: {views: 4}}", "summary: Field required"),
        ("summary: A.\nbases: [a]", "bases: Extra inputs are not permitted"),
        ("summary: A.\nbase: [nothing]", "base: Value error, there is no recipe 'nothing'"),
        ("summary: A.\ntrial: {crops: {veiws: 4}}", "trial.crops.veiws: Extra inputs are not permitted"),
        ("summary: A.\ntrial: {crops: {views: 1}}", "trial.crops.views: Input should be greater than or equal to 2"),
        ("summary: A.\ntrial: {loss: {name: nt_xent}}", "trial: Value error, crops.views must be 2"),
        ("summary: A.\npublished: {cifar10: {clean: 90, 4/255: 5}}", "published.cifar10.8/255: "),
        ("summary: A.\npublished: {cifar10: {clean: 900}}", "published.cifar10.clean: Input should be less than"),
        ("summary: A.\npublished: {minutes: 0}", "published.minutes: Input should be greater than 0"),
        ("- a", "must hold the keys of a recipe, not ['a']"),
        ("summary: [", "line 1, column 11: not valid YAML"),
        ("summary: A.\nsummary: B.\n", "line 2, column 1: not valid YAML: the key 'summary' occurs twice"),
        ("summary: A.\ntrial: {perturbation: {carry: no}}", "trial.perturbation.carry: "),
    ],
)
def test_a_broken_recipe_is_refused_with_file_and_key(
    text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)
    (tmp_path / "broken.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_recipe("broken")
    assert f"{tmp_path / 'broken.yaml'}: {problem}" in str(caught.value)


def test_a_tree_is_laid_over_another_section_by_section() -> None:
    under = {"crops": {"views": 2, "hue": 0.1}, "seed": 1, "evaluation": {"transfer": {"name": "cifar10"}}}
    over = {"crops": {"views": 4}, "loss": {"name": "nt_xent"}, "evaluation": {"transfer": None}}
    expected = {
        "crops": {"views": 4, "hue": 0.1},
        "seed": 1,
        "evaluation": {"transfer": None},
        "loss": {"name": "nt_xent"},
    }
    before = repr((under, over))
    assert lay_trials(under, over) == expected
    assert repr((under, over)) == before
    assert lay_trials(under, {}) == under == lay_trials({}, under)


def test_a_dotted_key_is_a_branch() -> None:
    assert branch("crops.views", 4) == {"crops": {"views": 4}}
    assert branch("evaluation.transfer.name", "cifar100") == {"evaluation": {"transfer": {"name": "cifar100"}}}
    assert branch("seed", 1) == {"seed": 1}
