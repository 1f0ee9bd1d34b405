"""The recipes as scikit-learn's estimators: in a pipeline, a grid search, a data frame."""

from pyro_cookbook.estimators.bayesian_classifier import BayesianClassifier
from pyro_cookbook.estimators.bayesian_regressor import BayesianRegressor
from pyro_cookbook.estimators.factor_analysis import FactorAnalysis
from pyro_cookbook.estimators.gaussian_mixture import GaussianMixture
from pyro_cookbook.estimators.sparse_coding import SparseCoding
from pyro_cookbook.estimators.variational_autoencoder import VariationalAutoencoder

__all__ = [
    "BayesianClassifier",
    "BayesianRegressor",
    "FactorAnalysis",
    "GaussianMixture",
    "SparseCoding",
    "VariationalAutoencoder",
]
