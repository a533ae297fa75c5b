"""One measurement in a process of its own, of whichever checkout is on the path: `times` runs it of two.

    python experiments/benchmarks/times_rows.py ROW

Prints CPU seconds, or bytes. What has moved since an old checkout is imported from both places.
"""

import inspect
import itertools
import os
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

ROUNDS = 3


def best(call: Callable[[], object], rounds: int = ROUNDS, number: int = 1) -> float:
    """CPU seconds of one of `number` calls within one, the fastest of some rounds; the first one is not counted."""
    jax.block_until_ready(call())
    found = []
    for _ in range(rounds):
        begin = time.process_time()
        jax.block_until_ready(call())
        found.append((time.process_time() - begin) / number)
    return min(found)


def wide_world(d: int, n: int, names: list[str]):
    """Cells of additive effects, with noise on 20 directions and on every gene."""
    import pdae_jax

    random = np.random.default_rng(0)
    effects = {p: 0.3 * random.normal(size=d) for p in sorted({p for name in names for p in name.split("+")})}
    base, loadings = random.normal(size=d), 0.3 * random.normal(size=(20, d))
    moved = [sum(effects[p] for p in name.split("+") if p != "ctrl") for name in names]
    noise = [random.normal(size=(n, 20)) @ loadings + 0.5 * random.normal(size=(n, d)) for _ in names]
    x = np.concatenate([base + each + shift for each, shift in zip(noise, moved, strict=True)]).astype(np.float32)
    return pdae_jax.from_arrays(x, conditions=np.repeat(names, n).tolist(), control="ctrl")


def counted(size, d: int) -> dict:
    """What of counts a step is given beside the cells."""
    try:
        from pdae_jax.types import Counted  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        from pdae_jax.view.units import Standardizer
        from pdae_jax.view.view import View

        return {
            "size": size,
            "view": View(Standardizer(np.ones(d, np.float32), np.ones(d, np.float32)), None, jnp.zeros(())),
        }
    return {"counted": Counted(size, jnp.ones(d), jnp.ones(d))}


def compiled_steps(kind: str, d: int, number: int):
    """So many steps of a recipe in one program, its state and its data; times do not depend on the values."""
    from pdae_jax import kernels
    from pdae_jax.model.model import make_model
    from pdae_jax.recipe import LossWeights
    from pdae_jax.training.step import Settings, init_state, make_train_step, make_train_steps, start_shapes

    try:
        from pdae_jax.view.sampler import DeviceData, make_sampler
    except ImportError:
        from pdae_jax.data.sample import DeviceData, make_sampler  # pyright: ignore[reportMissingImports]

    random = np.random.default_rng(0)
    conditions, cells, columns, latents = (40, 100, 20, 32) if d > 100 else (10, 1000, 4, 4)
    on_surface, counts = kind == "surface", kind == "counts"
    model = make_model(
        d,
        columns,
        latent_dim=latents,
        noise="abducted",
        noise_dim=0,
        observed_effects=not on_surface,
        hidden=(128, 128, 128),
        activation="silu",
        floor=np.full(d, -1.0, np.float32) if counts else None,
    )
    x = random.normal(size=(conditions * cells, d)).astype(np.float32)
    sizes = jnp.asarray(random.lognormal(size=len(x)), jnp.float32)
    data = DeviceData(
        x=jnp.asarray(np.maximum(x, -1.0) if counts else x),
        start=cells * jnp.arange(conditions),
        count=jnp.full(conditions, cells),
        labels=jnp.asarray(random.random((conditions, columns)) < 0.2, jnp.float32),
        **(counted(sizes, d) if counts else {}),
    )
    start = jax.tree.map(lambda a: np.asarray(0.1 * random.normal(size=np.shape(a)), np.float32), start_shapes(model))
    sample = make_sampler(conditions, num_sources=16, cells_per_source=16, num_targets=16, cells_per_target=64)
    kernel = kernels.energy(1.0)
    weights = LossWeights(*(jnp.float32(w) for w in ((0.5, 1.0, 0.3) if on_surface else (0.1, 0.0, 0.0))))
    values = {"num_steps": 1000, "learning_rate": 1e-3, "warmup_steps": 100, "clip_norm": 1.0, "average_decay": 0.999}
    numbers = {name: jnp.float32(value) for name, value in values.items()}
    state = init_state(
        jax.random.key(1),
        jax.jit(model.init)(jax.random.key(0), start),
        Settings(**numbers, weights=weights, kernel=jnp.asarray(kernel.parameters, jnp.float32)),
    )
    terms = ("reconstruction", "contrast", "likelihood") if on_surface else ("reconstruction",)
    step = make_train_step(model, sample, kernel=kernel, terms=terms, form="pairwise")
    small = {"small": True} if d <= 100 and "small" in inspect.signature(make_train_steps).parameters else {}
    return make_train_steps(step, number, **small).lower(state, data).compile(), state, data


def time_of_step(kind: str, d: int) -> float:
    number = 5 if d > 100 else 100
    compiled, state, data = compiled_steps(kind, d, number)
    holder = [state]

    def steps():  # the state is donated
        holder[0], metrics = compiled(holder[0], data)
        return metrics

    return best(steps, number=number)


def memory_of_step() -> float:
    return float(compiled_steps("noise", 1000, 5)[0].memory_analysis().temp_size_in_bytes)


def evaluation() -> float:
    """A condition of 390 cells and 1,000 genes by all methods and metrics, after others of the same sizes."""
    import pdae_jax

    names = ["ctrl", *"ABCDE", "A+B", "C+D", "B+C", "A+D", "A+E", "B+E", "C+E"]
    rest, test = pdae_jax.hold_out(wide_world(1000, 390, names), ["A+E", "B+E", "C+E", "A+D"])
    short: dict[str, Any] = {"num_steps": 4, "log_every": 2, "eval_every": 2, "checkpoint_every": 2}
    fitted = pdae_jax.fit(rest, key=jax.random.key(0), progress=False, latent_dim=8, **short)
    pdae_jax.evaluate(fitted, test.select(["A+E", "B+E"]), key=jax.random.key(1), progress=False)
    begin = time.process_time()
    pdae_jax.evaluate(fitted, test.select(["C+E", "A+D"]), key=jax.random.key(1), progress=False)
    return (time.process_time() - begin) / 2


def results_of_screen() -> float:
    """Predictions, diagnostics, figures and report of a run of the size of Norman et al.: what follows the evaluation.

    Times do not depend on how long the model was trained, nor on what was evaluated.
    """
    import pdae_jax
    from experiments.configs import screen
    from pdae_jax import build
    from pdae_jax.reporting import results

    config = screen.get_config()
    experiment = build.experiment(config)
    begins, evaluated = [], results.write_evaluation

    def write_evaluation(*arguments: Any, **options: Any) -> object:
        table = evaluated(*arguments, **options)
        begins.append(time.process_time())
        return table

    results.write_evaluation = write_evaluation
    short: dict[str, Any] = {"num_steps": 4, "log_every": 2, "eval_every": 2, "checkpoint_every": 2}
    with tempfile.TemporaryDirectory() as name:
        workdir = pathlib.Path(name)
        given = {"key": experiment.key, "validation": experiment.validation, "recipe": experiment.recipe}
        pdae_jax.fit(experiment.train, workdir=workdir, progress=False, config=config.to_dict(), **given, **short)
        results.save_test(workdir, experiment.test)
        few = {"metrics": ("energy_distance",), "splits": ("test",), "progress": False}
        results.write_results(workdir, **few, baselines=("control", "additive"))
    return time.process_time() - begins[0]


def preparation() -> float:
    """What the data say of a recipe, and the linear start, at 4,000 genes in 20 conditions of 200 cells."""
    from pdae_jax.model.model import linear_start
    from pdae_jax.recipe import Recipe
    from pdae_jax.training.defaults import resolve_recipe
    from pdae_jax.training.pilot import make_pilot

    singles = list("ABCDEFGHIJ")
    data = wide_world(4000, 200, ["ctrl", *singles, *(f"{a}+{b}" for a, b in itertools.pairwise(singles))])
    begin = time.process_time()
    recipe = Recipe(nonnegative=False, standardize="feature")
    found = resolve_recipe(recipe, data)
    pilot = make_pilot(recipe, data)
    cells, labels = pilot.cells(np.arange(data.num_cells)), data.labels[data.condition_index]
    older = {"noise": "abducted", "noise_dim": 0} if "noise" in inspect.signature(linear_start).parameters else {}
    linear = (pilot.means if hasattr(pilot, "means") else pilot).linear  # pyright: ignore[reportAttributeAccessIssue]
    linear_start(cells, labels, linear, found.latent_dim, **older)
    return time.process_time() - begin


def linear_model() -> float:
    """The linear model of 1,524 conditions of 238 perturbations, 1,000 genes."""
    from pdae_jax.model.linear import fit_linear

    random, columns, conditions = np.random.default_rng(0), 238, 1524
    pairs = np.stack(np.triu_indices(columns, 1), axis=1)
    pairs = pairs[random.permutation(len(pairs))[: conditions - 1 - columns]]
    labels = np.zeros((conditions, columns), np.float32)
    labels[1 : columns + 1] = np.eye(columns)
    labels[np.arange(columns + 1, conditions)[:, None], pairs] = 1.0
    counts = random.integers(50, 400, size=conditions)
    effects = 0.3 * random.normal(size=(columns, 12)) @ random.normal(size=(12, 1000))
    means = labels @ effects * np.where(labels.sum(axis=1) > 1, 0.8, 1.0)[:, None]
    means += 2.0 * random.normal(size=means.shape) / counts[:, None] ** 0.5
    try:
        from pdae_jax.design.design import make_design
    except ImportError:
        given = labels
    else:
        given = make_design(labels, [f"p{i}" for i in range(columns)])
    begin = time.process_time()
    fit_linear(means, given, counts)  # pyright: ignore[reportArgumentType]
    return time.process_time() - begin


def small_run() -> float:
    """All of a process: imports, a fit of 100 steps in 10 dimensions, one prediction."""
    import pdae_jax

    data = pdae_jax.simulate(jax.random.key(0), latent_dim=3, observed_dim=10, num_perturbations=4).data
    fitted = pdae_jax.fit(data, key=jax.random.key(1), progress=False, num_steps=100)
    pdae_jax.predict(fitted, data.conditions[-1], key=jax.random.key(2))
    return time.process_time()


def peak_memory() -> float:
    small_run()
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def energy_of(d: int) -> float:
    """The energy distance of 1,000 cells and 1,000 others, in that of a few lines of jnp."""
    from pdae_jax import losses

    x, y = np.random.default_rng(0).normal(size=(2, 1000, d)).astype(np.float32)
    x, y = jnp.asarray(x), jnp.asarray(y)

    @jax.jit
    def plain(x, y):
        def mean(a, b):
            squared = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1) - 2.0 * a @ b.T
            return jnp.sum(jnp.sqrt(jnp.maximum(squared, 0.0)))

        n = len(x)
        return 2.0 * mean(x, y) / n**2 - (mean(x, x) + mean(y, y)) / (n * (n - 1))

    def repeated(call):
        return [call(x, y) for _ in range(10)]

    return best(lambda: repeated(losses.energy_distance), 5) / best(lambda: repeated(plain), 5)


ROWS: dict[str, Callable[[], float]] = {
    "step-counts": lambda: time_of_step("counts", 1000),
    "step-noise": lambda: time_of_step("noise", 1000),
    "step-surface": lambda: time_of_step("surface", 1000),
    "step-10d": lambda: time_of_step("noise", 10),
    "step-memory": memory_of_step,
    "evaluate": evaluation,
    "results": results_of_screen,
    "preparation": preparation,
    "linear": linear_model,
    "process-first": small_run,
    "process-second": small_run,
    "memory": peak_memory,
    **{f"energy-{d}": (lambda d=d: energy_of(d)) for d in (2, 10, 50, 1000)},
}

if __name__ == "__main__":
    print(ROWS[sys.argv[1]]())
