"""Imports go to the right only, as the architecture says."""

import ast
from pathlib import Path

import metaprune_pl

LAYERS = [
    {"__main__", "compression"},
    {"notebook"},
    {"cli"},
    {"pipelines"},
    {"runs"},
    {"settings"},
    {"stages"},
    {"delivery"},
    {"data", "metanetworks", "reports"},
    {"pruning"},
    {"graphs"},
    {"networks"},
    {"records"},
    {"files"},
    {"errors"},
]
SOURCE = Path(metaprune_pl.__file__).parent


def layer_of(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


def imports(path: Path) -> set[str]:
    """First folders below metaprune_pl that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("metaprune_pl.")} - {
        "__version__"
    }


def test_imports_follow_the_layers() -> None:
    modules = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")
    assert len(modules) > 30
    for path in modules:
        own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for other in imports(path) - {own}:
            assert layer_of(other) > layer_of(own), f"{path.relative_to(SOURCE)} imports {other}"


def test_nothing_is_unpickled_and_nothing_broad_is_caught() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "torch.load",
                "pickle.load",
                "pickle.loads",
            }:
                assert "weights_only=True" in ast.unparse(node), f"{path}:{node.lineno}"
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None and "Exception" not in {
                    n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)
                }
