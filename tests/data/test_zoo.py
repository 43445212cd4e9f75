"""Which data models of a folder are learnt from, chosen by and held out."""

from itertools import combinations
from pathlib import Path

import pytest

from metaprune_pl.data import DataModelZoo, Digits
from metaprune_pl.errors import DataError

SEEDS = (2, 9, 10, 9_999, 10_000, 123_456)


def zoo(folder: Path, **settings: object) -> DataModelZoo:
    for seed in SEEDS:
        (folder / f"seed_{seed:04d}").mkdir(exist_ok=True)
        (folder / f"seed_{seed:04d}" / "network.json").touch()
    return DataModelZoo(Digits(), data_models=str(folder), **settings)  # type: ignore[arg-type]


def seeds(folders: list[Path]) -> list[int]:
    return [int(folder.name.removeprefix("seed_")) for folder in folders]


def test_seeds_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    assert seeds(zoo(tmp_path).models) == list(SEEDS)


@pytest.mark.parametrize(("held_out", "validation"), [(0, 0), (1, 0), (0, 1), (1, 2), (2, 3)])
def test_nothing_is_learnt_from_networks_to_choose_by_or_held_out(
    tmp_path: Path, held_out: int, validation: int
) -> None:
    data = zoo(tmp_path, held_out=held_out, validation=validation)
    learnt, known = set(seeds(data.models)), set(seeds(data.models_to_choose_by))
    kept = set(sorted(SEEDS)[len(SEEDS) - held_out :])
    assert learnt | known | kept == set(SEEDS)
    assert (len(learnt), len(known)) == (len(SEEDS) - held_out - validation, validation)
    assert not learnt & known and not (learnt | known) & kept


@pytest.mark.parametrize("size", range(1, len(SEEDS) + 1))
def test_names_of_some_bring_none_of_the_others_back(tmp_path: Path, size: int) -> None:
    whole = zoo(tmp_path, held_out=1, validation=2)
    unknown = {*SEEDS} - set(seeds(whole.models))
    for chosen in combinations(SEEDS, size):
        only = [f"seed_{seed:04d}" for seed in chosen]
        data = zoo(tmp_path, held_out=1, validation=2, only=only)
        if size <= 3:
            with pytest.raises(DataError, match=f"data.only has {size} data models, of which 3"):
                _ = data.models
            continue
        assert seeds(data.models) == list(chosen[:-3])
        assert seeds(data.models_to_choose_by) == list(chosen[-3:-1])
        assert not set(seeds(data.models)) & unknown
    assert seeds(zoo(tmp_path, only=["seed_10000"]).models) == [10_000]
