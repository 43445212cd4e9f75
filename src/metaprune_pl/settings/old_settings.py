"""Settings as configs of earlier versions have them, rewritten to those of today."""

from typing import Any

from metaprune_pl.errors import ConfigError

_IMPORTANCES = {
    "weights": "Magnitude",
    "scales": "Scales",
    "taylor": "Taylor",
    "random": "Random",
}
"""What `criterion.of` named, to the class that a criterion is now."""
_KEPT = {
    "Magnitude": {"p", "reduce", "normalize"},
    "Lamp": {"p"},
    "Scales": {"p", "normalize"},
    "Taylor": {"p", "normalize"},
    "Random": {"normalize", "seed"},
}


def rewrite_old(settings: Any) -> Any:
    """Return settings with those of earlier versions rewritten, at any depth.

    Args:
        settings: What YAML holds.

    Raises:
        ConfigError: A setting cannot be rewritten.
    """
    if isinstance(settings, list):
        return [rewrite_old(entry) for entry in settings]
    if not isinstance(settings, dict):
        return settings
    rewritten = {key: rewrite_old(value) for key, value in settings.items()}
    if isinstance(criterion := rewritten.get("criterion"), dict):
        rewritten["criterion"] = _criterion(criterion)
    for key in [key for key in rewritten if str(key).endswith("criterion.of")]:
        rewritten = _renamed(rewritten, key)
    return rewritten


def rewrite_old_flag(flag: str) -> str:
    """Return a flag `--KEY=VALUE` with an old key rewritten."""
    key, equals, value = flag.partition("=")
    if not equals or not key.endswith("criterion.of"):
        return flag
    return f"{key.removesuffix('.of')}={_importance(value)}"


def _criterion(criterion: dict[str, Any]) -> dict[str, Any]:
    """Return a criterion as a class with its settings; without an old key it stays what it is."""
    if "of" not in criterion and criterion.get("normalize") != "lamp" and "seed" not in criterion:
        return criterion
    name = _importance(criterion.get("of", "weights"))
    if criterion.get("normalize") == "lamp":
        if name != "Magnitude":
            raise ConfigError(
                f"criterion: `normalize: lamp` does not go with {name} any more: write "
                "`criterion: Lamp`, which is of weights."
            )
        name = "Lamp"
    kept = {key: value for key, value in criterion.items() if key in _KEPT[name]}
    return {"class_path": name, "init_args": kept}


def _renamed(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """Return settings whose dotted key `criterion.of` is a `criterion`, in its place."""
    pairs = (
        (name.removesuffix(".of"), _importance(value)) if name == key else (name, value)
        for name, value in settings.items()
    )
    return dict(pairs)


def _importance(of: str) -> str:
    if of not in _IMPORTANCES:
        raise ConfigError(f"criterion.of: '{of}' is none of {', '.join(_IMPORTANCES)}.")
    return _IMPORTANCES[of]
