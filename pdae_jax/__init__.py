"""pdae_jax: predict the distribution of measurements under combinations of perturbations nobody has measured."""

from pdae_jax import kernels, losses
from pdae_jax.compiled import cache_compilations
from pdae_jax.data.load import from_anndata, from_arrays, from_frame
from pdae_jax.data.simulate import simulate
from pdae_jax.design.split import hold_out, hold_out_cells
from pdae_jax.evaluation.table import evaluate
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.model import make_model
from pdae_jax.prediction.export import evaluation_pair, to_anndata
from pdae_jax.prediction.guarantee import check_guarantee
from pdae_jax.prediction.samples import predict, predict_batches
from pdae_jax.recipe import Recipe
from pdae_jax.reporting.overview import describe
from pdae_jax.training.ensemble import fit_ensemble
from pdae_jax.training.fit import fit
from pdae_jax.training.load import load_ensemble, load_run
from pdae_jax.training.population import Population, fit_population
from pdae_jax.two_sample.aggregated import aggregated_test
from pdae_jax.two_sample.permutation import benjamini_hochberg, two_sample_test, two_sample_tests
from pdae_jax.types import PerturbationData

__all__ = [
    "Ensemble",
    "PerturbationData",
    "Population",
    "Recipe",
    "aggregated_test",
    "benjamini_hochberg",
    "cache_compilations",
    "check_guarantee",
    "describe",
    "evaluate",
    "evaluation_pair",
    "fit",
    "fit_ensemble",
    "fit_population",
    "from_anndata",
    "from_arrays",
    "from_frame",
    "hold_out",
    "hold_out_cells",
    "kernels",
    "load_ensemble",
    "load_run",
    "losses",
    "make_model",
    "predict",
    "predict_batches",
    "simulate",
    "to_anndata",
    "two_sample_test",
    "two_sample_tests",
]
