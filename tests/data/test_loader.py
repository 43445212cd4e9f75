from collections.abc import Callable
from itertools import islice

import pytest
import torch
from torch import Tensor

from metaprune_pl.data import Batch, MetaBatch, TensorLoader
from metaprune_pl.data.loader import Order, Resumable
from metaprune_pl.data.zoo import MetaLoader
from metaprune_pl.errors import ConfigError

COUNT = 24


def loader(
    batch_size: int = 4,
    *,
    count: int = COUNT,
    train: bool = True,
    seed: int = 0,
    rank: int = 0,
    ranks: int = 1,
    step: int | None = None,
) -> TensorLoader:
    """Images whose only pixel, and label, is their number."""
    numbers = torch.arange(count)
    images = numbers.to(torch.uint8).reshape(-1, 1, 1, 1)
    order = Order(
        count, batch_size=batch_size, train=train, step=step, seed=seed, rank=rank, ranks=ranks
    )
    return TensorLoader(images, numbers, order)


def labels(batches: list[Batch]) -> list[int]:
    return torch.cat([batch.labels for batch in batches]).tolist()


def same(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(a, b, strict=True)
    )


def joined(batches: list[Batch]) -> Batch:
    return Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


# TensorLoader


def test_an_epoch_serves_every_image_once_with_its_own_label() -> None:
    batches = list(loader())
    assert len(batches) == len(loader()) == 6  # 24 / 4
    assert sorted(labels(batches)) == list(range(COUNT))
    for batch in batches:
        assert torch.equal(batch.images.flatten().long(), batch.labels)
        assert batch.draws.shape == (4, 3) and bool(((batch.draws >= 0) & (batch.draws < 1)).all())


def test_the_next_epoch_serves_every_image_once_in_another_order_with_other_draws() -> None:
    data = loader()
    first, second = list(data), list(data)
    assert sorted(labels(second)) == list(range(COUNT))
    assert labels(first) != labels(second)
    draws = [
        dict(zip(labels(epoch), joined(epoch).draws, strict=True)) for epoch in (first, second)
    ]
    assert not any(torch.equal(draws[0][number], draws[1][number]) for number in range(COUNT))


def test_order_and_draws_follow_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = list(loader(seed=5))
    torch.manual_seed(2)
    again, other = list(loader(seed=5)), list(loader(seed=6))
    assert same(joined(first), joined(again))
    assert labels(first) != labels(other)


def test_training_drops_the_incomplete_last_batch_and_evaluation_serves_it() -> None:
    trained, evaluated = list(loader(count=22)), list(loader(count=22, train=False))
    assert [len(batch.labels) for batch in trained] == [4] * 5
    assert len(set(labels(trained))) == 20
    assert [len(batch.labels) for batch in evaluated] == [4] * 5 + [2]
    assert labels(evaluated) == list(range(22))


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_loader_that_takes_over_in_the_middle_or_at_the_end_of_an_epoch_goes_on_exactly(
    stop: int,
) -> None:
    whole = loader()
    list(whole)  # one epoch before
    batches = [*whole, *whole]
    stopped = loader()
    list(stopped)
    served = list(islice(stopped, stop))
    state = stopped.state_dict()
    resumed = loader()
    resumed.load_state_dict(state)
    rest = [*resumed, *resumed] if stop < 6 else list(resumed)
    assert len(served) + len(rest) == len(batches) == 12
    for found, expected in zip([*served, *rest], batches, strict=True):
        assert same(found, expected)


def test_the_state_is_plain_numbers_that_a_new_loader_starts_from_zero() -> None:
    assert loader().state_dict() == {"epoch": 0, "position": 0}
    data = loader()
    list(data)
    list(islice(data, 2))
    assert data.state_dict() == {"epoch": 1, "position": 2}


@pytest.mark.parametrize("make", [lambda: loader(), lambda: meta()], ids=["images", "meta"])
def test_an_epoch_that_is_asked_for_is_the_same_whatever_came_before(
    make: Callable[[], Resumable],
) -> None:
    fresh, used = make(), make()
    whole = [list(fresh) for _ in range(4)]
    list(islice(used, 2))
    for epoch in (3, 1):
        used.set_epoch(epoch)
        found = list(used)
        assert len(found) == len(whole[epoch])
        assert all(same(a, b) for a, b in zip(found, whole[epoch], strict=True))


@pytest.mark.parametrize("make", [lambda: loader(), lambda: meta()], ids=["images", "meta"])
def test_asking_for_the_epoch_that_has_begun_changes_nothing(make: Callable[[], Resumable]) -> None:
    whole, stopped, resumed = list(make()), make(), make()
    list(islice(stopped, 2))
    resumed.load_state_dict(stopped.state_dict())
    resumed.set_epoch(0)
    rest = list(resumed)
    assert len(rest) == len(whole) - 2
    assert all(same(a, b) for a, b in zip(rest, whole[2:], strict=True))


def test_two_ranks_see_together_what_one_process_with_twice_the_batch_sees() -> None:
    one, ranks = loader(8), [loader(4, rank=rank, ranks=2) for rank in (0, 1)]
    for _ in range(2):  # epochs
        big, parts = list(one), [list(rank) for rank in ranks]
        assert [len(part) for part in parts] == [len(big)] * 2 == [3, 3]  # 24 / 8
        for expected, found in zip(big, zip(*parts, strict=True), strict=True):
            assert same(joined(list(found)), expected)


@pytest.mark.parametrize("count", [16, 18, 21, 24])
def test_two_ranks_evaluate_every_image_once(count: int) -> None:
    parts = [list(loader(count=count, train=False, rank=rank, ranks=2)) for rank in (0, 1)]
    assert [len(part) for part in parts] == [
        len(loader(count=count, train=False, rank=rank, ranks=2)) for rank in (0, 1)
    ]
    assert sorted(labels(parts[0] + parts[1])) == list(range(count))


def test_fewer_images_than_one_batch_on_each_device_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"a step needs 32 training images; there are 24\."):
        loader(16, ranks=2)
    assert len(list(loader(16, train=False))) == 2


# MetaLoader


def meta(
    micro_batches: int = 3,
    *,
    rank: int = 0,
    ranks: int = 1,
    rounds: int = 2,
    count: int = COUNT,
    models_per_step: int = 1,
) -> MetaLoader:
    images = loader(2, count=count, rank=rank, ranks=ranks, step=2)
    return MetaLoader(
        images,
        models=4,
        micro_batches=micro_batches,
        rounds=rounds,
        models_per_step=models_per_step,
    )


def big_batches(batches: list[MetaBatch]) -> list[list[MetaBatch]]:
    """Split where a batch says that it is the last."""
    result: list[list[MetaBatch]] = [[]]
    for batch in batches:
        result[-1].append(batch)
        if batch.last:
            result.append([])
    assert result.pop() == []
    return result


def test_a_meta_epoch_takes_every_data_model_through_each_round_in_a_new_order() -> None:
    data = meta()
    epochs = [big_batches(list(data)) for _ in range(4)]
    orders = []
    for steps in epochs:
        assert [len(step) for step in steps] == [3] * 8  # 4 models x 2 rounds of 3 micro-batches
        models = [step[0].models[0] for step in steps]
        assert all({batch.models for batch in step} == {step[0].models} for step in steps)
        assert sorted(models[:4]) == sorted(models[4:]) == [0, 1, 2, 3]
        orders += [tuple(models[:4]), tuple(models[4:])]
    assert len(set(orders)) > 4  # eight rounds in 24 possible orders
    assert len(data) == 24


def test_meta_epochs_go_through_all_images_before_any_comes_again() -> None:
    data = meta()  # 24 micro-batches of 2 are two passes over 24 images
    seen = labels(list(data))
    assert sorted(seen[:24]) == sorted(seen[24:]) == list(range(24))
    assert seen[:24] != seen[24:]
    assert sorted(labels(list(islice(data, 12)))) == list(
        range(24)
    )  # the next epoch goes on with the third pass


@pytest.mark.parametrize("count", [24, 27])
def test_two_ranks_see_the_big_batches_of_one_with_twice_the_micro_batches(count: int) -> None:
    one, ranks = meta(6, count=count), [meta(3, rank=rank, ranks=2, count=count) for rank in (0, 1)]
    for _ in range(2):  # epochs
        big, parts = big_batches(list(one)), [big_batches(list(rank)) for rank in ranks]
        assert len(big) == len(parts[0]) == len(parts[1]) == 8
        for whole, left, right in zip(big, *parts, strict=True):
            assert (
                {b.models for b in whole} == {b.models for b in left} == {b.models for b in right}
            )
            for found, expected in zip(left + right, whole, strict=True):
                assert same(found[:3], expected[:3])


@pytest.mark.parametrize("models", [2, 4])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_take_different_data_models_and_see_together_what_one_rank_sees(
    models: int, ranks: int
) -> None:
    shared = max(1, ranks // models)  # ranks that share a data model
    one = meta(2 * shared, models_per_step=models)
    several = [meta(2, rank=rank, ranks=ranks, models_per_step=models) for rank in range(ranks)]
    for _ in range(2):  # epochs
        whole, parts = list(one), [list(loader) for loader in several]
        assert sum(batch.last for batch in whole) == 8 // models  # 4 models x 2 rounds
        assert all(sum(batch.last for batch in part) == 8 // models for part in parts)
        rows = [
            [batch for part in parts for batch in part[i : i + len(part) * models // 8]]
            for i in range(0, len(parts[0]), len(parts[0]) * models // 8)
        ]
        for found, expected in zip([batch for row in rows for batch in row], whole, strict=True):
            assert (
                same(found[:3], expected[:3])
                and found.models[found.part] == expected.models[expected.part]
            )
        assert {len(batch.models) for batch in whole} == {models}
        assert {len(batch.models) for part in parts for batch in part} == {max(1, models // ranks)}
        steps = [
            whole[i : i + len(whole) * models // 8]
            for i in range(0, len(whole), len(whole) * models // 8)
        ]
        assert all({batch.part for batch in step} == set(range(models)) for step in steps)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ranks": 2, "models_per_step": 3}, "3 and 2 devices"),
        ({"models_per_step": 3}, "3 does not divide 4 models x 2"),
    ],
)
def test_steps_that_cannot_be_shared_out_are_refused(options: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        meta(**options)


@pytest.mark.parametrize("stop", [1, 3, 10, 24])
def test_meta_training_goes_on_exactly_after_a_resume(stop: int) -> None:
    whole = meta()
    list(whole)  # one epoch before
    batches = [*whole, *whole]
    stopped = meta()
    list(stopped)
    served = list(islice(stopped, stop))
    resumed = meta()
    resumed.load_state_dict(stopped.state_dict())
    rest = [*resumed, *resumed] if stop < 24 else list(resumed)
    assert len(served) + len(rest) == len(batches) == 48
    for found, expected in zip([*served, *rest], batches, strict=True):
        assert same(found, expected)


def test_evaluation_starts_from_the_front_though_the_last_one_was_cut_short() -> None:
    data = loader(train=False)
    list(islice(data, 2))  # Lightning's sanity check
    assert labels(list(data)) == list(range(COUNT))
