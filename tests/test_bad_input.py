"""Bad input, one table: each mistake raises an error that names the offender and says the fix, before any training."""

import inspect

import jax
import numpy as np
import pandas as pd
import pytest

import pdae_jax
from pdae_jax import build

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
NAMES = ["ctrl"] * 4 + ["A"] * 4 + ["A+B"] * 4


def arrays(x=X, conditions=NAMES, **options):
    return pdae_jax.from_arrays(x, conditions=conditions, control="ctrl", **options)


def spoiled(value):
    x = X.copy()
    x[5, 1] = value
    return x


def constant():
    x = X.copy()
    x[:, 2] = 7.0
    return x


@pytest.fixture(scope="module")
def fitted():
    return pdae_jax.fit(arrays(), key=KEY, latent_dim=2, hidden=(4,), stop_step=0)


AT_THE_DOOR = {
    "no control": (lambda: arrays(conditions=["A"] * 6 + ["B"] * 6), ValueError, ["ctrl", "control="]),
    "one cell": (lambda: arrays(conditions=NAMES[:11] + ["C"]), ValueError, ["'C'", "one cell", "at least 2"]),
    "NaN": (lambda: arrays(spoiled(np.nan), features=["f0", "pERK", "f2"]), ValueError, ["pERK"]),
    "infinite": (lambda: arrays(spoiled(np.inf), features=["f0", "pERK", "f2"]), ValueError, ["pERK"]),
    "constant feature": (lambda: arrays(constant(), features=["f0", "f1", "GAPDH"]), ValueError, ["GAPDH", "7"]),
    "genes of the training data that are missing, all of them": (
        lambda: pdae_jax.from_frame(
            pd.DataFrame(X, columns=["GATA1", "KLF1", "x"]).assign(condition=NAMES),
            like=arrays(features=["GATA1", "KLF2", "MYC"]),
        ),
        KeyError,
        ["2 of 3 names are missing: 'KLF2', 'MYC'", "'KLF1'"],
    ),
    "mismatched lengths": (lambda: arrays(conditions=NAMES[:-1]), ValueError, ["12", "11"]),
    "one label, two names": (
        lambda: arrays(conditions=NAMES[:6] + ["x"] * 2 + NAMES[8:], labels=[[0]] * 4 + [[1]] * 4 + [[2]] * 4),
        ValueError,
        ["'A'", "'x'", "one name"],
    ),
    "label of wrong length": (
        lambda: pdae_jax.from_arrays(X, labels=np.zeros((12, 3)), perturbations=["A", "B"]),
        ValueError,
        ["3", "2"],
    ),
    "missing column": (
        lambda: pdae_jax.from_frame(pd.DataFrame(X).assign(treatment=NAMES), condition="treatmnt", control="ctrl"),
        KeyError,
        ["treatmnt", "treatment"],
    ),
    "empty split": (lambda: pdae_jax.hold_out(arrays(), []), ValueError, ["hold out", "empty"]),
    "control held out": (lambda: pdae_jax.hold_out(arrays(), ["ctrl"]), ValueError, ["ctrl"]),
    "unknown held-out condition": (lambda: pdae_jax.hold_out(arrays(), ["A+C"]), KeyError, ["C"]),
}


@pytest.mark.parametrize("mistake", AT_THE_DOOR)
def test_data(mistake):
    call, error, words = AT_THE_DOOR[mistake]
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


UNSEEN = ("a\nb", "a\rb", "a\0b", "a\x1bb", "a\x85b", "a\u2028b", "a\u202eb", "a\ud800b")


@pytest.mark.parametrize("name", UNSEEN)
def test_names_that_nothing_can_show_are_refused_at_every_door(name):
    names, cells = [name if n == "A" else n for n in NAMES[:8]] + [f"{name}+B"] * 4, pd.DataFrame(X)
    doors = {
        "Condition": lambda: arrays(conditions=names),
        "Perturbation": lambda: arrays(
            conditions=None, labels=np.eye(3)[[2] * 4 + [0] * 4 + [1] * 4], perturbations=[name, "B", "C"]
        ),
        "Feature": lambda: arrays(features=["f0", "f1", name]),
        "Control": lambda: pdae_jax.from_arrays(X, conditions=names, control=["ctrl", name]),
        # strings of pandas 3 cannot hold half of a surrogate pair, objects can
        "Condition ": lambda: pdae_jax.from_frame(
            cells.assign(condition=pd.Series(names, dtype=object)), control="ctrl"
        ),
        "Feature ": lambda: pdae_jax.from_frame(
            cells.set_axis(pd.Index([0, name, 2], dtype=object), axis=1).assign(condition=NAMES), control="ctrl"
        ),
    }
    for kind, door in doors.items():
        with pytest.raises(ValueError) as caught:
            door()
        message = str(caught.value)
        assert message.startswith(kind.strip()) and repr(name)[1:-1] in message and "Rename it" in message
        assert message.isprintable()
    assert arrays(conditions=["naïve β-药 $x$ | <b>" if n == "A" else n for n in NAMES]).num_conditions == 3


BEFORE_TRAINING = {
    "misspelt option": ({"laten_dim": 4}, TypeError, ["laten_dim", "latent_dim"]),
    "unknown form": ({"form": "pairwize"}, ValueError, ["pairwize", "pairwise"]),
    "no steps": ({"num_steps": 0}, ValueError, ["num_steps=0"]),
    "uneven chunks": ({"eval_every": 150}, ValueError, ["eval_every=150", "log_every=100"]),
    "negative weight": ({"likelihood": -0.3}, ValueError, ["likelihood=-0.3", "0 (left out)"]),
    "steep kernel": ({"beta": 2.0}, ValueError, ["beta=2.0"]),
}


@pytest.mark.parametrize("mistake", BEFORE_TRAINING)
def test_recipe(mistake):
    options, error, words = BEFORE_TRAINING[mistake]
    with pytest.raises(error) as caught:
        pdae_jax.fit(arrays(), key=KEY, **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_fit_without_control_or_with_seen_validation():
    data = arrays()
    with pytest.raises(ValueError, match="No control condition 'ctrl'"):
        pdae_jax.fit(data.select(["A", "A+B"]), key=KEY)
    with pytest.raises(ValueError, match=r"shared with the training data: \['A'\]"):
        pdae_jax.fit(data, key=KEY, validation=data.select(["A"]))


def test_a_folder_with_something_else_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "000").mkdir()
    (tmp_path / "000" / "thesis.txt").write_text("all of it")
    monkeypatch.setattr("pdae_jax.training.train.make_plan", lambda *_: pytest.fail("refused too late"))
    options = {"key": KEY, "workdir": tmp_path / "000"}
    for fit in (
        lambda: pdae_jax.fit(arrays(), **options),
        lambda: pdae_jax.fit_ensemble(arrays(), **options),
        lambda: pdae_jax.fit_population(arrays(), [{}], key=KEY, workdir=tmp_path),
    ):
        with pytest.raises(ValueError, match=r"thesis.txt.*new folder"):
            fit()
    assert [p.name for p in (tmp_path / "000").iterdir()] == ["thesis.txt"]
    with pytest.raises(NotADirectoryError, match=r"thesis.txt' is a file. Pass the name of a folder"):
        pdae_jax.fit(arrays(), key=KEY, workdir=tmp_path / "000" / "thesis.txt")


AT_PREDICTION = {
    "unknown perturbation": ("A+Bb", {}, KeyError, ["'Bb'", "'B'"]),
    "label of wrong length": ([1.0, 0.0, 0.0], {}, ValueError, ["(3,)", "2 perturbations"]),
    "infinite dose": ({"A": float("inf")}, {}, ValueError, ["inf"]),
    "unknown source": ("A", {"source": "AB"}, KeyError, ["'AB'"]),
    "no samples": ("A", {"num_samples": 0}, ValueError, ["num_samples=0"]),
    "half a sample": ("A", {"num_samples": 10.5}, TypeError, ["num_samples=10.5"]),
}


@pytest.mark.parametrize("mistake", AT_PREDICTION)
def test_prediction(fitted, mistake):
    label, options, error, words = AT_PREDICTION[mistake]
    with pytest.raises(error) as caught:
        inspect.unwrap(pdae_jax.predict)(fitted, label, key=KEY, **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_sources_that_name_nothing(fitted):
    data = arrays()
    with pytest.raises(KeyError, match=r"A\+Bb"):
        pdae_jax.fit(data.select(["ctrl", "A"]), key=KEY, validation=data.select(["A+B"]), source={"A+Bb": "A"})
    with pytest.raises(KeyError, match=r"'AA'.*'A'"):
        pdae_jax.evaluate(fitted, data.select(["A"]), source={"AA": "ctrl"})
    with pytest.raises(ValueError, match="patience=3 needs validation"):
        pdae_jax.fit(data, key=KEY, patience=3)


def test_numbers_of_an_evaluation(fitted):
    for name, value in (("num_samples", 10.5), ("most_in_sample", 0.5), ("devices", 1.5)):
        with pytest.raises(TypeError, match=f"{name}={value!r}"):
            inspect.unwrap(pdae_jax.evaluate)(fitted, arrays().select(["A"]), **{name: value})


def test_evaluation_of_other_features(fitted):
    data = arrays(features=["f0", "f1", "other"])
    with pytest.raises(ValueError, match="other"):
        pdae_jax.evaluate(fitted, data.select(["A"]))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda c: c.update({"sed": 1}), KeyError, ["'sed'", "seed"]),
        (lambda c: c.fit.update({"num_step": 1}), TypeError, ["num_step", "num_steps"]),
        (lambda c: c.data.update({"name": "bodenmuller"}), KeyError, ["bodenmuller", "bodenmiller"]),
        (lambda c: c.evaluation.update({"source": "p99"}), KeyError, ["p99"]),
        (
            lambda c: c.evaluation.update({"comparators": ("composition",)}),
            KeyError,
            ["'composition'", "compositional"],
        ),
        (lambda c: c.update({"replicas": 0}), ValueError, ["replicas=0"]),
    ],
)
def test_config(change, error, words):
    from experiments.configs import simulated

    config = simulated.get_config("smoke")
    config.unlock()
    change(config)
    with pytest.raises(error) as caught:
        build.experiment(config)
    assert all(word in str(caught.value) for word in words), str(caught.value)
