"""What an experiment recommends follows from its own figures."""

from metaprune_pl.reports import Experiment, Pruned
from metaprune_pl.reports.summary import choice_sentence, pruned_rows, recommendation
from metaprune_pl.reports.tables import experiment_tables


def pruned(method: str, finetuned: float, images: int, **others: object) -> Pruned:
    values = {
        "network": "net",
        "method": method,
        "target": 4.0,
        "speed_up": 4.1,
        "macs": 1000,
        "parameters": 100,
        "accuracy_given": 1.0,
        "accuracy_before": 1.0,
        "accuracy_pruned": 0.5,
        "accuracy_finetuned": finetuned,
        "images": images,
        "path": f"runs/{method}",
        **others,
    }
    return Pruned(**values)  # type: ignore[arg-type]


def test_of_equals_the_one_with_the_fewest_images_is_recommended() -> None:
    spread = [pruned("long", value, 9000) for value in (0.90, 0.94)]
    cheap = [pruned("short", value, 1000) for value in (0.90, 0.91)]
    poor = [pruned("poor", value, 10, accuracy_pruned=0.8) for value in (0.5, 0.6)]
    said = recommendation(Experiment(pruned=[*spread, *cheap, *poor]))
    assert said.startswith("By these figures take short at 4x: 90.50 ± 0.71 % after 1.00 k images")
    assert "poor has 80.00 ± 0.00 %" in said and said.endswith("lies in runs/short.")


def test_clearly_better_is_better_whatever_it_costs() -> None:
    best = [pruned("long", value, 9000) for value in (0.96, 0.961)]
    cheap = [pruned("short", value, 1000) for value in (0.90, 0.91)]
    assert "take long at 4x" in recommendation(Experiment(pruned=[*best, *cheap]))
    assert recommendation(Experiment()) == ""


def test_budgets_are_rows_of_their_own_and_the_best_one_is_recommended() -> None:
    tenth = [pruned("a", 0.99, 100, budget=0.1), pruned("b", 0.7, 100, budget=0.1)]
    full = [pruned("a", 0.8, 1000), pruned("b", 0.9, 1000)]
    experiment = Experiment(pruned=[*tenth, *full])
    assert [row["budget"] for row in pruned_rows(experiment)] == [0.1, 0.1, 1.0, 1.0]
    assert "take a at 4x: 99.00 % after 100 images" in recommendation(experiment)
    table = experiment_tables(experiment)[0]
    assert "budget %" in table.columns


def test_the_weight_of_the_largest_area_is_taken() -> None:
    experiment = Experiment(tuning={0.01: 0.5, 0.03: 0.75})
    assert experiment.best_weight == 0.03
    assert "Weight of sparsity learning: 0.03, by the areas" in choice_sentence(experiment)
