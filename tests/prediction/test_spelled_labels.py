"""A condition may be written in any order wherever one is named: labels, sources, and the conditions of a mapping."""

import jax
import numpy as np
import pytest

import pdae_jax
from pdae_jax.build import _sources

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    names = ["ctrl", "A+ctrl", "ctrl+B", "C", "B+A", "A+B", "C+B"]
    return pdae_jax.from_arrays(random.normal(size=(84, 3)), names * 12, control="ctrl")


@pytest.fixture(scope="module")
def fitted(data):
    train, validation = pdae_jax.hold_out(data, "A + B")
    return pdae_jax.fit(
        train, key=KEY, validation=validation, source={"A+B": "ctrl+A"}, latent_dim=2, hidden=(4,), stop_step=0
    )


def test_prediction_takes_every_order(fitted):
    expected = pdae_jax.predict(fitted, "A+B", key=KEY, source="B")
    assert expected.source == "B"
    for label, source in (("B+A", "B+ctrl"), (" B + ctrl + A", " ctrl+B "), ({"B": 1, "A": 1}, "B:1")):
        found = pdae_jax.predict(fitted, label, key=KEY, source=source)
        assert found.source == "B"
        np.testing.assert_array_equal(found.samples, expected.samples)
        verdicts = [pdae_jax.check_guarantee(fitted, "A+B", source=start) for start in (source, "B")]
        verdicts.append(pdae_jax.check_guarantee(fitted, "A+B", from_condition=source))
        assert len({repr(verdict) for verdict in verdicts}) == 1  # NaN is not equal to itself


def test_a_guarantee_is_of_a_model_and_its_source_is_of_cells(fitted, data):
    new = pdae_jax.check_guarantee(fitted, "A+B", source=data.cells("B"))
    assert new.condition == "A+B" and new.outside is not None
    with pytest.raises(TypeError, match=r"check_guarantee\(fitted, 'A\+B'\)"):
        pdae_jax.check_guarantee(data, "A+B", source=fitted)
    with pytest.raises(KeyError, match="No condition 'D'"):
        pdae_jax.check_guarantee(fitted, "A+B", source="D")


def test_evaluation_takes_every_order(fitted, data):
    _, test = pdae_jax.hold_out(data, ["B+C"])
    options = {"num_samples": 10, "baselines": ["control"], "metrics": ["mean_l2"], "progress": False}
    expected = pdae_jax.evaluate(fitted, test, source={"C+B": "C"}, **options)
    found = pdae_jax.evaluate(fitted, test, source={"B+C": "ctrl + C"}, **options)
    assert set(found["condition"]) == {"C+B"} and set(found["source"]) == {"C"}
    np.testing.assert_array_equal(found["value"], expected["value"])


def test_sources_of_a_config_take_every_order(data):
    rest, test = pdae_jax.hold_out(data, "C+B")
    train, validation = pdae_jax.hold_out(rest, "A+B")
    assert _sources({"A+B": "B+ctrl", "B+C": "nearest"}, train, validation, test) == {"A+B": "B+ctrl"}
    with pytest.raises(KeyError, match=r"'A\+C'"):
        _sources({"A+C": "B"}, train, validation, test)
