"""A fit of every recipe on a small table, most with parameters made up: answers need no optimum."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import torch
from build import belief_model, belief_network, belief_phi, belief_theta, build

from guides import learned_codes, maximum_entropy
from guides.eight_schools import EightSchoolsFullRank
from guides.explaining_away import ExplainingAwayMAP
from guides.sparse_coding import (
    SparseCodingAmortized,
    SparseCodingGaussian,
    SparseCodingMAP,
    SparseCodingMeanField,
)
from guides.variational_autoencoder import (
    VariationalAutoencoderAmortized,
    VariationalAutoencoderMeanField,
)
from models.eight_schools import eight_schools_noncentred
from models.explaining_away import ExplainingAway
from models.maximum_entropy import Multipliers
from models.maximum_entropy import maximum_entropy as lagrangian
from models.sparse_coding import SparseCoding
from models.variational_autoencoder import VariationalAutoencoder
from pyro_cookbook import catalogue, data
from pyro_cookbook.data import Table
from pyro_cookbook.fits.fitting import as_fit
from pyro_cookbook.fits.result import Fit

COLUMNS = ("length (cm)", "mass", "count")


def answers_of(name: str) -> catalogue.Recipe:
    return catalogue.recipe(name)


def rows_of(table: Table, rows: object) -> Table:
    """Some rows of a table, standardised as all of it was."""
    return replace(table, v=table.v[rows], raw=table.raw[rows])


def block(frame: pd.DataFrame, name: str, count: int) -> np.ndarray:
    """Columns of one kind side by side, shape (n, count): their name has {} for the number."""
    return np.column_stack([frame[name.format(k)] for k in range(count)])


def without_last(table: Table) -> Table:
    """Leave the last column out."""
    return replace(
        table, v=table.v[:, :-1], raw=table.raw[:, :-1], columns=table.columns[:-1],
        loc=table.loc[:-1], scale=table.scale[:-1],
    )  # fmt: skip


def moved(table: Table, column: int, factor: float, shift: float) -> Table:
    """The same table with one column in other units."""
    raw = table.raw.numpy().copy()
    raw[:, column] = factor * raw[:, column] + shift
    frame = pd.DataFrame(raw, columns=list(table.columns))
    return data.standardise(frame, table.name, table.labels, table.source)


@cache
def measurements(num_rows: int = 90) -> Table:
    """Three correlated columns in units far apart, in two groups."""
    rng = np.random.default_rng(4)
    group = rng.random(num_rows) < 0.4
    z = rng.standard_normal((num_rows, 3)) + 2.5 * group[:, None]
    mix = np.array([[2.0, 0.3, 40.0], [0.0, 0.05, 60.0], [0.0, 0.0, 30.0]])
    values = z @ mix + np.array([170.0, -0.2, 5000.0])
    return data.standardise(pd.DataFrame(values, columns=list(COLUMNS)), "mine", (), "mine")


@cache
def shapes() -> Table:
    """Six columns that two factors explain in part, in units far apart."""
    rng = np.random.default_rng(10)
    loadings = rng.standard_normal((2, 6))
    values = rng.standard_normal((150, 2)) @ loadings + 0.8 * rng.standard_normal((150, 6))
    values = values * np.array([3.0, 0.02, 40.0, 1.0, 0.2, 10.0]) + np.arange(6.0)
    names = ["width", "mass", "area", "turns", "gap", "age"]
    return data.standardise(pd.DataFrame(values, columns=names), "shapes", (), "shapes")


@cache
def outcomes() -> Table:
    """The measurements, and an outcome that depends on them."""
    table = measurements()
    rng = np.random.default_rng(5)
    score = (table.v @ torch.tensor([1.0, -0.7, 0.4], dtype=torch.float64)).numpy()
    y = (rng.random(len(score)) < 1 / (1 + np.exp(-score))).astype(float)
    frame = pd.DataFrame(table.raw.numpy(), columns=list(COLUMNS)).assign(ill=y)
    return data.standardise(frame, "mine", (), "mine")


@cache
def bits() -> Table:
    """Rows that the belief network of `build` has dreamt."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        v = belief_model(belief_theta())(num_obs=60).detach().numpy()
    return data.standardise(pd.DataFrame(v, columns=list("abcde")), "bits", (), "bits")


@cache
def signals() -> Table:
    """Twenty rows of four columns of one unit."""
    v = 2 * np.random.default_rng(6).standard_normal((20, 4))
    return data.standardise(pd.DataFrame(v, columns=list("pqrs")), "signals", (), "signals")


@cache
def prepared(name: str, guide: str, table: str = "measurements", size: int | None = 2) -> Fit:
    """Fit by the chapter's algorithm, in a second or less."""
    return answers_of(name).prepare(guide, globals()[table](), size=size).fit()


def like[M: torch.nn.Module](module: M, seed: int, step: float = 0.3) -> M:
    """Take all parameters a random step from their start."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in module.double().parameters():
            parameter.add_(step * torch.randn_like(parameter))
    return module


@cache
def entropy(guide: str) -> Fit:
    table = measurements()
    q = maximum_entropy.MaximumEntropyNormal(3)
    if guide == "flow":
        q = maximum_entropy.MaximumEntropyFlow(3, 6)
    zero = table.v.new_zeros(3)
    multipliers = Multipliers(zero, zero - 0.5)
    return as_fit(lagrangian, like(q, 2), table.v, data_kwargs={"multipliers": multipliers})


@cache
def dictionary() -> SparseCoding:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = SparseCoding(4, 6, rate=1.3, scale=0.6).double()
    model.b = torch.tensor([0.5, 0.0, -0.3, 0.2], dtype=torch.float64)
    return model.requires_grad_(False)


@cache
def codes(guide: str) -> Fit:
    v = signals().raw
    made = {
        "map": lambda: SparseCodingMAP(len(v), 6).double(),
        "gaussian": lambda: SparseCodingGaussian(len(v), 6).double(),
        "mean_field": lambda: SparseCodingMeanField(len(v), 6).double(),
        "amortized": lambda: SparseCodingAmortized(4, 6, (8,)).double(),
        "amortized point": lambda: SparseCodingAmortized(4, 6, (8,), point=True).double(),
        "psd": lambda: learned_codes.SparseCodingPSD(4, 6).double(),
        "lista": lambda: learned_codes.SparseCodingLISTA(4, 6, 3).double().start_at(dictionary()),
        "learned_steps": lambda: (
            learned_codes.SparseCodingLearnedSteps(4, 6, 3).double().start_at(dictionary())
        ),
    }
    return as_fit(dictionary(), made[guide](), v)


@cache
def causes() -> Fit:
    model = build(ExplainingAway(2), w=[1.5, 0.8]).requires_grad_(False)
    return as_fit(model, ExplainingAwayMAP(20, 2).double(), signals().raw[:, :1])


def sums() -> Table:
    return replace(
        signals(), v=signals().v[:, :1], raw=signals().raw[:, :1], columns=("p",),
        loc=signals().loc[:1], scale=signals().scale[:1],
    )  # fmt: skip


@cache
def beliefs() -> Fit:
    model = belief_model(belief_theta()).requires_grad_(False)
    return as_fit(model, belief_network(belief_phi()), bits().raw)


@cache
def schools() -> Fit:
    table = data.load("eight_schools")
    guide = EightSchoolsFullRank(8, "eta").double()
    guide.loc = torch.linspace(1.0, -0.5, 10).double()
    guide.scale_tril = (0.6 * torch.eye(10) + 0.1 * torch.ones(10, 10).tril()).double()
    return as_fit(eight_schools_noncentred, guide, *table.raw.unbind(1))


@cache
def autoencoder(guide: str, likelihood: str = "gaussian", hidden: tuple[int, ...] = (8,)) -> Fit:
    table = {"gaussian": measurements, "bernoulli": bits, "beta_binomial": counts}[likelihood]()
    v = table.v if likelihood == "gaussian" else table.raw
    total = 9 if likelihood == "beta_binomial" else 1
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = VariationalAutoencoder(
            v.shape[1], 2, hidden, likelihood=likelihood, total_count=total
        ).double()
        encoder = VariationalAutoencoderAmortized(v.shape[1], 2, hidden).double()
    q = encoder if guide == "amortized" else VariationalAutoencoderMeanField(len(v), 2).double()
    return as_fit(like(model, 8, 1.0), q, v)


@cache
def counts() -> Table:
    v = np.random.default_rng(9).integers(0, 10, (30, 3)).astype(float)
    return data.standardise(pd.DataFrame(v, columns=list("xyz")), "counts", (), "counts")


def every_recipe() -> dict[str, tuple[str, Fit, Table]]:
    """A fit of every recipe with the table it is of; of some with several guides."""
    made = {
        "factors": ("01_inf", prepared("04d", "exact", "shapes"), shapes()),
        "mixture": ("02_exp", prepared("02", "exact"), measurements()),
        "bayesian mixture": ("02_exp", prepared("02", "mean_field"), measurements()),
        "codes": ("03_sparse", codes("map"), signals()),
        "spread of codes": ("03_sparse", codes("gaussian"), signals()),
        "switches": ("04a_bin", prepared("04a", "map", "signals"), signals()),
        "entropy": ("04b_calc", entropy("normal"), measurements()),
        "flow": ("04b_calc", entropy("flow"), measurements()),
        "causes": ("04c_expl", causes(), sums()),
        "logistic": ("04c_log", prepared("04c_log", "laplace", "outcomes", None), outcomes()),
        "schools": ("04c_eight", schools(), data.load("eight_schools")),
        "learning": ("04d_lear", prepared("04d", "mean_field", "shapes"), shapes()),
        "beliefs": ("05a_wake", beliefs(), bits()),
        "learned codes": ("05b_lear", codes("learned_steps"), signals()),
        "encoder": ("05c_var", autoencoder("amortized"), measurements()),
        "row by row": ("05c_var", autoencoder("mean_field"), measurements()),
        "counts": ("05c_var", autoencoder("mean_field", "beta_binomial"), counts()),
    }
    return {key: (catalogue.recipe(name).name, *rest) for key, (name, *rest) in made.items()}
