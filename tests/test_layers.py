"""Reading order is import order: each module imports only from modules before it, also inside functions."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pdae_jax"

LAYERS = (
    "compiler",
    "types",
    "data.conditions",
    "data.notation",
    "data.observations",
    "data.tables",
    "data.load",
    "data.files",
    "data.datasets",
    "data.norman_pairs",
    "data.simulate",
    "data.split",
    "data.sample",
    "data.store",
    "data",
    "linear",
    "networks",
    "encoder",
    "shift",
    "decoder",
    "model",
    "distances",
    "kernels",
    "summation",
    "tiles",
    "pair_tile",
    "pair_sum",
    "one_dimensional",
    "losses",
    "linear_time",
    "relabelling",
    "objective",
    "optimizer",
    "train",
    "recipe",
    "density",
    "fitted",
    "validate",
    "checkpoint",
    "track",
    "folder",
    "prepare",
    "loop",
    "alignment",
    "ensemble",
    "disagreement",
    "guarantee",
    "identification",
    "predict",
    "two_sample_test",
    "diagnostics",
    "baselines",
    "compositional_step",
    "compositional",
    "metrics",
    "mmdagg",
    "evaluate",
    "summary",
    "panels",
    "plots",
    "report",
    "results",
    "build",
)

#: What `import pdae_jax` leaves to the functions that need it.
LAZY = {"anndata", "matplotlib", "orbax", "pandas"}


def module_name(path: Path, package: Path) -> str:
    """``data.load`` for pdae_jax/data/load.py, ``data`` for pdae_jax/data/__init__.py, empty for the package."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a file imports, anywhere in it."""
    here = [package.name, *path.relative_to(package).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def violations(path: Path, package: Path) -> list[str]:
    """One line per import that breaks the order."""
    name = module_name(path, package)
    if name and name not in LAYERS:
        return [
            f"{path.name}: module {name!r} has no place in the reading order. Add it to LAYERS in tests/test_layers.py."
        ]
    found = []
    for line, target in imported(path, package):
        root, *parts = target.split(".")
        where = f"{path.relative_to(package.parent)}:{line} imports {target}"
        if root == "ml_collections" and name != "build":
            found.append(f"{where}, but only build.py reads a config. Take explicit keyword arguments.")
        if root in ("experiments", "tests"):
            found.append(f"{where}, but the package stands without {root}/.")
        if root != package.name or not name:
            continue
        known = [".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in LAYERS]
        if not known:
            found.append(f"{where}: no module of LAYERS. Import from the module that defines it.")
        elif LAYERS.index(known[0]) >= LAYERS.index(name):
            found.append(f"{where}, but {known[0]!r} does not come before {name!r} in the reading order.")
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: module_name(path, PACKAGE) or "pdae_jax"
)
def test_module_keeps_the_order_and_says_what_it_is(path):
    assert not violations(path, PACKAGE), "\n".join(violations(path, PACKAGE))
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring. Say in one line what it is."


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("losses.py", "def f():\n    from pdae_jax.train import step", "'train' does not come before 'losses'"),
        ("losses.py", "from pdae_jax import train", "'train' does not come before 'losses'"),
        ("losses.py", "from . import train", "'train' does not come before 'losses'"),
        ("data/load.py", "from ..model import Model", "'model' does not come before 'data.load'"),
        ("data/load.py", "from . import split", "'data.split' does not come before 'data.load'"),
        ("losses.py", "import pdae_jax.plots as p", "'plots' does not come before 'losses'"),
        ("losses.py", "from pdae_jax import fit", "no module of LAYERS"),
        ("train.py", "import ml_collections", "only build.py reads a config"),
        ("train.py", "from experiments.configs import base", "stands without experiments/"),
        ("helpers.py", "", "has no place in the reading order"),
    ],
)
def test_the_walk_sees(tmp_path, file, source, message):
    path = tmp_path / "pdae_jax" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (found,) = violations(path, tmp_path / "pdae_jax")
    assert message in found


def test_import_is_light():
    code = "import sys, pdae_jax; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "pdae_jax" in loaded
    assert not LAZY & set(loaded), f"import pdae_jax imports {sorted(LAZY & set(loaded))}; import them where used"
