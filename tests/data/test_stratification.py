import torch
from hypothesis import given
from hypothesis import strategies as st

from cfamc_ray.data.stratification import balanced_draw, interleaved, stratified_order

labels_and_seeds = given(
    labels=st.lists(st.integers(0, 6), max_size=200).map(lambda labels: torch.tensor(labels, dtype=torch.int64)),
    seed=st.integers(0, 2**63),
)


@labels_and_seeds
def test_it_is_a_permutation(labels: torch.Tensor, seed: int) -> None:
    assert sorted(stratified_order(labels, seed).tolist()) == list(range(len(labels)))


@labels_and_seeds
def test_every_prefix_holds_each_class_in_proportion(labels: torch.Tensor, seed: int) -> None:
    ordered = labels[stratified_order(labels, seed)]
    sizes = torch.bincount(labels)
    classes = int((sizes > 0).sum())
    prefix = torch.arange(1, len(labels) + 1)
    for label in set(labels.tolist()):
        share = int(sizes[label]) / len(labels)
        excess = (ordered == label).cumsum(0) - share * prefix
        assert excess.abs().max() <= (1 + share * (classes - 2)) / 2 + 1e-4


@given(images_per_class=st.integers(1, 20), classes=st.integers(1, 12), seed=st.integers(0, 1000))
def test_equal_classes_take_turns(images_per_class: int, classes: int, seed: int) -> None:
    labels = torch.arange(classes).repeat(images_per_class)
    rounds = labels[stratified_order(labels, seed)].view(images_per_class, classes)
    assert torch.equal(rounds.sort(dim=1).values, torch.arange(classes).expand(images_per_class, classes))


def test_the_seed_alone_decides() -> None:
    labels = torch.arange(100) % 4
    assert torch.equal(stratified_order(labels, 3), stratified_order(labels, 3))
    assert not torch.equal(stratified_order(labels, 3), stratified_order(labels, 4))


def test_the_order_is_pinned() -> None:
    """Finished studies name their images by seed alone."""
    assert stratified_order(torch.tensor([0, 0, 0, 0, 1, 1, 1, 2]), seed=0).tolist() == [2, 4, 3, 6, 7, 0, 5, 1]


def test_no_class_is_favoured_for_its_number() -> None:
    labels = torch.tensor([0, 1])
    first = [int(stratified_order(labels, seed)[0]) for seed in range(200)]
    assert 70 <= sum(first) <= 130


@given(first=st.integers(0, 60), second=st.integers(0, 60))
def test_every_prefix_of_two_orders_holds_each_in_proportion(first: int, second: int) -> None:
    orders = torch.arange(first), torch.arange(first, first + second)
    merged = interleaved(*orders)
    for order in orders:
        assert torch.equal(merged[torch.isin(merged, order)], order)
    excess = (merged < first).cumsum(0) - torch.arange(1, len(merged) + 1) * (first / max(first + second, 1))
    assert len(merged) == first + second
    assert not len(merged) or excess.abs().max() <= 1


@given(per_class=st.integers(1, 6), classes=st.integers(1, 8), seed=st.integers(0, 2**63), draw=st.integers(0, 9))
def test_a_balanced_draw_holds_equally_many_of_each_class_and_those_of_a_smaller_one(
    per_class: int, classes: int, seed: int, draw: int
) -> None:
    labels = torch.arange(classes).repeat_interleave(torch.arange(classes) + 7)
    drawn = balanced_draw(labels, per_class, seed, draw)
    assert torch.bincount(labels[drawn]).tolist() == [per_class] * classes
    assert len(set(drawn.tolist())) == len(drawn)
    assert set(drawn.tolist()) < set(balanced_draw(labels, per_class + 1, seed, draw).tolist())
    assert torch.equal(drawn, balanced_draw(labels, per_class, seed, draw))


def test_draws_and_seeds_give_other_images() -> None:
    labels = torch.arange(400) % 4
    draws = [balanced_draw(labels, 5, seed, draw).tolist() for seed, draw in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(sorted(each)) for each in draws}) == 3
    assert draws[0] != sorted(draws[0], key=lambda place: int(labels[place])), "classes are mixed"
