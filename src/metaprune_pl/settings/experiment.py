"""What an experiment compares, and which settings its stages have."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from metaprune_pl.errors import ConfigError
from metaprune_pl.metanetworks.search import SearchSettings
from metaprune_pl.pruning import MaskSettings, Sparsity
from metaprune_pl.pruning.targets import check_speed_ups
from metaprune_pl.reports.paper import PaperRow
from metaprune_pl.reports.summary import METHODS
from metaprune_pl.settings.config_text import check_folder_name
from metaprune_pl.stages.baselines import BASELINES, UNIFORM, baseline

STAGES: Mapping[str, str | None] = {
    "data_models": None,
    "meta_training": "metanetwork",
    "curve": None,
    "prune": None,
    "choice": "metanetwork",
    "zoo": "guided",
    "predictor": "guided",
    "guided": "guided",
}
"""Name of a stage to the method that it is of alone; `choice` has the config of `curve`, and its
overrides below its own."""
GUIDED = tuple(stage for stage, method in STAGES.items() if method == "guided")
Overrides = dict[str, dict[str, Any]]
"""Stage to settings that override its config's."""


def images_of(stage: str) -> str:
    """Return the setting that names a stage's images: a zoo of data models has them inside."""
    return "data.init_args.images" if stage == "meta_training" else "data"


def merged(*parts: Overrides) -> Overrides:
    """Return overrides over each other; what comes later wins."""
    result: Overrides = {}
    for part in parts:
        for stage, settings in part.items():
            result[stage] = {**result.get(stage, {}), **settings}
    return result


@dataclass(frozen=True, kw_only=True)
class ExperimentSettings:
    """Which stages an experiment chains, and what it compares.

    Attributes:
        data_models: Config of `data_models`: metanetworks learn from those with the first seeds,
            `validation` ones are to choose by, and the last are held out.
        meta_training: Config of `fit` that trains the metanetwork; only its method needs it.
        curve: Config of `curve`, and of `select`, which chooses the metanetwork; None draws no
            curves, and the finetuning before pruning is that of `prune`.
        prune: Config of `prune`.
        zoo: Config of `data_models`: networks that the predictor of the method `guided` learns
            from.
        predictor: Config of `fit` that trains the predictor.
        guided: Config of `fit` that prunes a network by it: see `GuidedSparsity`.
        held_out: Number of networks that are pruned and reported on; no metanetwork has seen them.
        validation: Number of networks by whose curves the epoch of a metanetwork is chosen; none
            has learnt from them either.
        repeats: Seeds of several prunings of each of these networks, from the metanetwork on
            (equation 9), after one training of everything else; none is one with the run's seed.
        search: How the metanetwork is chosen among those of all epochs.
        speed_ups: Targets; none is curves alone.
        masks: Shares and patterns of weights that become zero, in place of speed-ups; the curves
            are over the shares.
        sparsity: Sparsity term of the control `sparsity_learning`.
        tune: Weights of that term; the one of the largest area under the validation curve of a
            network to choose by is taken. None are needed where it is known.
        budgets: Shares of the finetuning after pruning that each method gets, in turn; what is left
            without any is measured in any case.
        methods: What is compared: `none`, `sparsity_learning`, `metanetwork`, and baselines:
            `random`, `magnitude_l1`, `magnitude_l2`, `batch_norm_scale`, `taylor`, `lamp`,
            `iterative_magnitude`, `iterative_magnitude_trained` (without rewinding),
            `balanced_magnitude`, `snip`, `snip_trained`, each with `_uniform` behind it for the
            same share of each group; with masks also `guided`; and `variants`.
        variants: Methods of your own: name to the overrides that make it.
        images: Data module (`class_path` and `init_args`) in place of that of every config; None
            leaves them.
        overrides: Stage (`data_models`, `meta_training`, `curve`, `prune`) to settings that
            override its config's; the `choice` of the metanetwork has those of `curve`, and its own
            over them.
        metanetworks: Several metanetworks in place of one: name to the overrides that make it
            another one.
        on_own: Names of those that are trained on the very network that they prune, one for each,
            as the authors of ScaleGMN-pruning do.
        paper: Rows of the paper's tables that the results are laid beside, in `paper.csv`.
    """

    data_models: str
    meta_training: str | None = None
    curve: str | None = None
    prune: str
    zoo: str | None = None
    predictor: str | None = None
    guided: str | None = None
    held_out: int = 2
    validation: int = 1
    repeats: list[int] = field(default_factory=list)
    search: SearchSettings = field(default_factory=SearchSettings)
    speed_ups: list[float] = field(default_factory=lambda: [2.0, 3.0, 4.0])
    masks: MaskSettings | None = None
    sparsity: Sparsity = field(default_factory=Sparsity)
    tune: list[float] = field(default_factory=list)
    budgets: list[float] = field(default_factory=lambda: [1.0])
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    variants: dict[str, Overrides] = field(default_factory=dict)
    images: dict[str, Any] | None = None
    overrides: Overrides = field(default_factory=dict)
    metanetworks: dict[str, Overrides] = field(default_factory=dict)
    on_own: list[str] = field(default_factory=list)
    paper: list[PaperRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.speed_ups:
            check_speed_ups(self.speed_ups)
        if self.masks is not None and not self.masks.sparsities:
            raise ConfigError(
                "chain.masks: give sparsities, too: by curves over them the metanetwork is chosen."
            )
        if self.held_out < 1 or self.validation < 1:
            raise ConfigError("chain.held_out and chain.validation are at least 1.")
        if len(set(self.repeats)) < len(self.repeats) or min([*self.repeats, 0]) < 0:
            raise ConfigError("chain.repeats: give seeds of at least 0, each once.")
        several = {**self.variants, **self.metanetworks}
        for name in several:
            check_folder_name(name, "chain.metanetworks and variants")
        if self.images is not None and not isinstance(self.images.get("class_path"), str):
            raise ConfigError("chain.images: give a class_path, such as Digits, and init_args.")
        for name, overrides in {"overrides": self.overrides, **several}.items():
            if other := sorted(overrides.keys() - set(STAGES)):
                raise ConfigError(f"chain, {name}: '{other[0]}' is none of {', '.join(STAGES)}.")
            if name != "overrides" and "data_models" in overrides:
                raise ConfigError(f"chain, {name}: all methods have the same data models.")
        if "metanetwork" in self.methods and None in (self.meta_training, self.curve):
            raise ConfigError("chain: the method metanetwork needs meta_training and curve.")
        if not self.budgets or not all(0 < share <= 1 for share in self.budgets):
            raise ConfigError("chain.budgets: give shares above 0 and up to 1, such as [0.1, 1.0].")
        if self.tune and (self.curve is None or self.masks is not None):
            raise ConfigError("chain.tune: the weight is chosen by a curve over speed-ups.")
        if not all(0 < weight < math.inf for weight in self.tune):
            raise ConfigError("chain.tune: give weights above 0, such as [0.01, 0.03].")
        if len(set(self.methods)) != max(1, len(self.methods)):
            raise ConfigError("chain.methods: name at least one, and each once.")
        known = {*METHODS, "guided", *self.variants}
        if unknown := [m for m in self.methods if m not in known and baseline(m) is None]:
            names = ", ".join([*METHODS, "guided", *BASELINES])
            names += f" (these also with {UNIFORM}), or variants"
            raise ConfigError(f"chain.methods: '{unknown[0]}' is none of {names}.")
        self._check_guided()

    def _check_guided(self) -> None:
        missing = [name for name in GUIDED if getattr(self, name) is None]
        if "guided" in self.methods and (missing or self.masks is None or self.masks.patterns):
            raise ConfigError(
                f"chain.methods: guided needs configs of {', '.join(GUIDED)}, and masks with "
                "sparsities alone."
            )
        if unknown := sorted({*self.on_own} - {*self.metanetworks}):
            known = ", ".join(self.metanetworks) or "of which there are none"
            raise ConfigError(f"chain.on_own: '{unknown[0]}' is none of metanetworks, {known}.")

    def check_held_out(self, data_models: int) -> None:
        """Refuse to leave too few data models for what learns or chooses by them.

        Raises:
            ConfigError: There are only so many.
        """
        learns = "metanetwork" in self.methods
        chosen = self.validation if learns or self.tune else 0
        if data_models < self.held_out + chosen + learns:
            raise ConfigError(
                f"{self.data_models} trains {data_models} data models, {self.held_out} of which "
                f"are held out and {chosen} for the choice: add seeds to it, or lower "
                "chain.held_out or chain.validation."
            )

    def to_choose_by(self, networks: Sequence[Path]) -> Sequence[Path]:
        """Return the data models by which metanetworks are chosen, of all."""
        end = len(networks) - self.held_out
        return networks[end - self.validation : end]

    def stages_of(self, method: str) -> list[str]:
        """Return the names of the stages that a method has."""
        own = [name for name, alone in STAGES.items() if method.startswith(alone or "")]
        return [name for name in own if self.config_of(name) is not None]

    def config_of(self, name: str) -> str | None:
        """Return the config of a stage; None where there is no such stage."""
        config: str | None = getattr(self, "curve" if name == "choice" else name)
        return config

    def changes_of(self, name: str, method: str) -> dict[str, Any]:
        """Return what a method's stage changes in its config, the images among it."""
        own = self.images is not None and name != "predictor"
        images = {images_of(name): self.images} if own else {}
        return {**images, **self.changes(method)[name]}

    @property
    def compared(self) -> dict[str, Overrides]:
        """Methods by the names that they have in the report, with what each changes."""
        compared: dict[str, Overrides] = {}
        for method in self.methods:
            several = self.metanetworks if method == "metanetwork" else {}
            other = baseline(method)
            own = self.variants.get(method, {})
            if other is not None:
                own = other.overrides(method.endswith(UNIFORM), masks=self.masks is not None)
            compared |= {f"{method}_{name}": changes for name, changes in several.items()} or {
                method: own
            }
        return compared

    def changes(self, method: str) -> Overrides:
        """Return what overrides the configs of a method's stages, or of all where it is none."""
        every: Overrides = {stage: {} for stage in STAGES}
        masks = {} if self.masks is None else {"masks": asdict(self.masks)}
        masked = {"curve": masks, "prune": masks}
        changes = merged(every, masked, self.overrides, self.compared.get(method, {}))
        search = {"search": asdict(self.search)}
        return {**changes, "choice": {**search, **changes["curve"], **changes["choice"]}}

    @property
    def beside_nothing(self) -> list[PaperRow]:
        """Rows of the paper beside which no method and target of ours stands."""
        masks = self.masks
        targets = self.speed_ups if masks is None else [each.text for each in masks.targets]
        ours = set(product(self.compared, map(str, targets)))
        return [row for row in self.paper if (row.method, str(row.target)) not in ours]

    def is_on_own(self, method: str) -> bool:
        """Whether a metanetwork is trained on the very network that it prunes."""
        return method.removeprefix("metanetwork_") in self.on_own

    @property
    def shared(self) -> list[str]:
        """Metanetworks that are trained once for all networks that are pruned."""
        metanetworks = (name for name in self.compared if name.startswith("metanetwork"))
        return [name for name in metanetworks if not self.is_on_own(name)]

    def first_like(self, method: str, *stages: str) -> str:
        """Return the first metanetwork with the same settings of these stages as another one."""
        wanted = [self.changes(method)[stage] for stage in stages]
        return next(
            m for m in self.shared if [self.changes(m)[stage] for stage in stages] == wanted
        )
