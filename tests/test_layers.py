"""The order of the folders: each imports only from itself and from those before it, also inside functions."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pdae_jax"

ORDER = (
    "root",  # the nouns: labels, types, recipe
    "two_sample",
    "design",
    "data",
    "view",
    "model",
    "runs",
    "training",
    "prediction",
    "evaluation",
    "reporting",
    "build",
    "cli",
)
NOUNS = {"cells", "compiled", "damage", "labels", "randomness", "recipe", "settings", "spelling", "types"}
DOORS = {"kernels", "linear_time", "losses"}  # public import paths of two_sample, for users

#: What `import pdae_jax` leaves to the functions that need it.
LAZY = {"anndata", "matplotlib", "orbax", "pandas", "scipy.stats"}


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


def room_of(module: str) -> str | None:
    """Which of `ORDER` a module belongs to; None: to none."""
    first, _, rest = module.partition(".")
    if first in NOUNS and not rest:
        return "root"
    return first if first in ORDER[1:] else None


def modules_of(package: Path) -> dict[str, set[str]]:
    """Of every module of a package the modules of it that it imports."""
    names = {module_name(path, package): path for path in package.rglob("*.py")}
    return {name: {m for _, target in imported(path, package) for m in [_within(target, names, package)] if m} - {name}
            for name, path in names.items()}  # fmt: skip


def _within(target: str, names: dict[str, Path], package: Path) -> str | None:
    root, *parts = target.split(".")
    if root != package.name:
        return None
    return next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in names), None)


def violations(path: Path, package: Path) -> list[str]:
    """One line per import that breaks the order of the folders."""
    name = module_name(path, package)
    room = room_of(name)
    if name and name not in DOORS and room is None:
        return [f"{path.name}: module {name!r} is in no room. Put it into one of {', '.join(ORDER)}."]
    found = []
    for line, target in imported(path, package):
        root, *parts = target.split(".")
        where = f"{path.relative_to(package.parent)}:{line} imports {target}"
        if root == "ml_collections" and room not in ("build", "cli"):
            found.append(f"{where}, but only build.py and cli/ read a config. Take explicit keyword arguments.")
        if root in ("experiments", "tests"):
            found.append(f"{where}, but the package stands without {root}/.")
        if root != package.name or not name:
            continue
        there = "two_sample" if parts[0] in DOORS and name in DOORS else room_of(parts[0])
        if there is None:
            found.append(f"{where}: no room has it. Import from the module that defines it.")
        elif name not in DOORS and room is not None and ORDER.index(there) > ORDER.index(room):
            found.append(f"{where}, but {there!r} does not come before {room!r}.")
    return found


def test_no_module_needs_itself():
    try:
        TopologicalSorter(modules_of(PACKAGE)).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: module_name(path, PACKAGE) or "pdae_jax"
)
def test_module_keeps_the_order_and_says_what_it_is(path):
    assert not violations(path, PACKAGE), "\n".join(violations(path, PACKAGE))
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring. Say in one line what it is."


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        (
            "model/shift.py",
            "def f():\n    import pdae_jax.training.step",
            "'training' does not come before 'model'",
        ),
        ("model/shift.py", "from pdae_jax.training import step", "'training' does not come before 'model'"),
        ("model/shift.py", "from ..training import step", "'training' does not come before 'model'"),
        ("data/load.py", "from ..model.model import Model", "'model' does not come before 'data'"),
        (
            "two_sample/kernels.py",
            "import pdae_jax.reporting.plots",
            "'reporting' does not come before 'two_sample'",
        ),
        ("types.py", "from pdae_jax.data import load", "'data' does not come before 'root'"),
        ("model/shift.py", "from pdae_jax import fit", "no room has it"),
        ("model/shift.py", "from pdae_jax.losses import mmd2", "no room has it"),
        ("training/step.py", "import ml_collections", "only build.py and cli/ read a config"),
        ("training/step.py", "from experiments.configs import base", "stands without experiments/"),
        ("helpers.py", "", "is in no room"),
    ],
)
def test_the_walk_sees(tmp_path, file, source, message):
    path = tmp_path / "pdae_jax" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (found,) = violations(path, tmp_path / "pdae_jax")
    assert message in found


def test_import_is_light():
    code = "import sys, pdae_jax; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "pdae_jax" in loaded
    assert not LAZY & set(loaded), f"import pdae_jax imports {sorted(LAZY & set(loaded))}; import them where used"
