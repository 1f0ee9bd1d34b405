"""What `adapt` has to know of each recipe: one entry each, and nothing of it elsewhere."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyro_cookbook.catalogue.topics.variational_autoencoder import likelihood_for
from pyro_cookbook.data import Table
from pyro_cookbook.publish.adapt.formula import check_formula


@dataclass(frozen=True)
class Pair:
    """A model and a guide, by where their source is: ``"factor_analysis.FactorAnalysis"``.

    Attributes
    ----------
    model : str
        In the package `models`.
    guide : str
        In the package `guides`.
    more_guides : tuple of str
        Others that its fit needs.
    """

    model: str
    guide: str
    more_guides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Particulars:
    """What a recipe's project is made of.

    Attributes
    ----------
    templates : str
        Stem of its two templates in ``templates/adapt/recipes``: ``<stem>.fit.j2``, which builds
        and fits, and ``<stem>.test.j2``, the oracle.
    pairs : mapping of str to Pair
        One for each guide of the recipe.
    exact : str
        What the oracle is, half a line.
    columns : str
        What the columns of a table have to be, a sentence; "" for any numbers.
    has_words : bool, default False
        Whether columns of words stay words, or are encoded.
    values : callable
        ``values(table, options)``: more values for the templates, chosen by the table and the
        recipe's options; refuses, with an `InputError`, what does not go together. Default: none.
    """

    templates: str
    pairs: Mapping[str, Pair]
    exact: str
    columns: str = ""
    has_words: bool = False
    values: Callable[[Table, Any], dict[str, Any]] = lambda table, options: {}


def _pairs(model: str, topic: str, **guides: str) -> dict[str, Pair]:
    return {name: Pair(model, f"{topic}.{guide}") for name, guide in guides.items()}


def _likelihood(table: Table, options: Any) -> dict[str, Any]:
    likelihood, total_count = likelihood_for(table.raw)
    return {"likelihood": likelihood, "total_count": total_count}


_SCHOOLS = {
    "map": "eight_schools.EightSchoolsMAP",
    "mean_field": "eight_schools.EightSchoolsMeanField",
    "full_rank": "eight_schools.EightSchoolsFullRank",
}

_AUTOENCODER = "variational_autoencoder.VariationalAutoencoder"
_ENCODER = "variational_autoencoder.VariationalAutoencoderAmortized"

# Recipe → its entry.
PARTICULARS: dict[str, Particulars] = {
    "01_inference_as_optimisation": Particulars(
        "factor_analysis",
        _pairs(
            "factor_analysis.FactorAnalysis",
            "factor_analysis",
            map="FactorAnalysisMAP",
            mean_field="FactorAnalysisMeanField",
            full_rank="FactorAnalysisFullRank",
            amortized="FactorAnalysisAmortized",
        ),
        "the posterior and the evidence, by conditioning one joint Gaussian",
    ),
    "02_expectation_maximisation": Particulars(
        "gaussian_mixture",
        _pairs(
            "gaussian_mixture.GaussianMixture",
            "gaussian_mixture",
            exact="GaussianMixtureExact",
            map="GaussianMixtureMAP",
            amortized="GaussianMixtureAmortized",
        )
        | _pairs(
            "gaussian_mixture.bayesian_gaussian_mixture",
            "gaussian_mixture",
            mean_field="BayesianGaussianMixtureMeanField",
        ),
        "every component's share, one SciPy density at a time",
    ),
    "03_sparse_coding": Particulars(
        "sparse_coding",
        _pairs(
            "sparse_coding.SparseCoding",
            "sparse_coding",
            map="SparseCodingMAP",
            mean_field="SparseCodingMeanField",
            gaussian="SparseCodingGaussian",
            amortized="SparseCodingAmortized",
        ),
        "scikit-learn's lasso for the mode, SciPy's densities for the rest",
    ),
    "04a_binary_sparse_coding": Particulars(
        "binary_sparse_coding",
        _pairs(
            "binary_sparse_coding.BinarySparseCoding",
            "binary_sparse_coding",
            map="BinarySparseCodingMAP",
            mean_field="BinarySparseCodingMeanField",
            amortized="BinarySparseCodingAmortized",
        ),
        "every state of the switches, one at a time",
    ),
    "04b_calculus_of_variations": Particulars(
        "maximum_entropy",
        _pairs(
            "maximum_entropy.maximum_entropy",
            "maximum_entropy",
            normal="MaximumEntropyNormal",
            flow="MaximumEntropyFlow",
        ),
        "the entropy of the normal with the rows' mean and variance",
    ),
    "04c_explaining_away": Particulars(
        "explaining_away",
        _pairs(
            "explaining_away.ExplainingAway",
            "explaining_away",
            map="ExplainingAwayMAP",
            mean_field="ExplainingAwayMeanField",
            full_rank="ExplainingAwayFullRank",
            amortized="ExplainingAwayAmortized",
        ),
        "the posterior and the evidence, by conditioning one joint Gaussian",
        "One column: the sums, about a mean of 0, in units in which the noise has sd 1.",
    ),
    "04c_logistic_regression": Particulars(
        "logistic_regression",
        _pairs(
            "logistic_regression.logistic_regression",
            "logistic_regression",
            map="LogisticRegressionMAP",
            laplace="LogisticRegressionLaplace",
            mean_field="LogisticRegressionMeanField",
            full_rank="LogisticRegressionFullRank",
        ),
        "SciPy's densities, and the mode that its optimiser finds",
        "The outcome, 0 or 1, is the last column; the others explain it.",
    ),
    "04c_eight_schools": Particulars(
        "eight_schools",
        {
            f"centred_{name}": Pair("eight_schools.eight_schools_centred", _SCHOOLS[name])
            for name in ("mean_field", "full_rank")
        }
        | {
            name: Pair("eight_schools.eight_schools_noncentred", guide)
            for name, guide in _SCHOOLS.items()
        },
        "given the spread the schools are Gaussian: their posterior and the likelihood of τ",
        "Two columns: the standard error of each estimate, and the estimate.",
    ),
    "04d_learning_meets_inference": Particulars(
        "learning",
        _pairs(
            "factor_analysis.FactorAnalysis",
            "factor_analysis",
            exact="FactorAnalysisFullRank",
            mean_field="FactorAnalysisMeanField",
        ),
        "the posterior and the evidence, by conditioning one joint Gaussian",
    ),
    "05a_wake_sleep": Particulars(
        "sigmoid_belief_network",
        _pairs(
            "sigmoid_belief_network.SigmoidBeliefNetwork",
            "sigmoid_belief_network",
            map="SigmoidBeliefNetworkMAP",
            mean_field="SigmoidBeliefNetworkMeanField",
            amortized="SigmoidBeliefNetworkAmortized",
        ),
        "every state of the causes, one at a time",
        "Every number is 0 or 1.",
    ),
    "05b_learned_codes": Particulars(
        "learned_codes",
        _pairs(
            "sparse_coding.SparseCoding",
            "learned_codes",
            psd="SparseCodingPSD",
            lista="SparseCodingLISTA",
            learned_steps="SparseCodingLearnedSteps",
        ),
        "ISTA and FISTA by NumPy, row by row, and SciPy's densities",
    ),
    "05c_variational_autoencoder": Particulars(
        "variational_autoencoder",
        {
            "mean_field": Pair(
                _AUTOENCODER,
                "variational_autoencoder.VariationalAutoencoderMeanField",
                (_ENCODER,),  # which its rows are refined from
            ),
            "amortized": Pair(_AUTOENCODER, _ENCODER),
        },
        "networks multiplied out by NumPy, densities by SciPy",
        "The likelihood at the top of `fit.py` has to suit them: zeros and ones, counts, or any.",
        values=_likelihood,
    ),
    "regression": Particulars(
        "regression",
        _pairs(
            "regression.regression",
            "regression",
            map="RegressionMAP",
            mean_field="RegressionMeanField",
            full_rank="RegressionFullRank",
        ),
        "SciPy's densities, and conditioning one joint Gaussian",
        "Words are categories. The formula at the top of `fit.py` says which columns are used.",
        has_words=True,
        values=check_formula,
    ),
}
