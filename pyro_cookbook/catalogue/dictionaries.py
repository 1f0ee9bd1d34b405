"""The dictionary that topics 3 and 5b hold while their guides differ."""

from typing import Any

from torch import Tensor

from models.sparse_coding import SparseCoding
from pyro_cookbook.algorithms.sparse_coding.dictionary_learning import alternate, learn_online
from pyro_cookbook.catalogue.options import options_of
from pyro_cookbook.programs.state.holding import hold


def learned_model(
    v: Tensor, size: int, seed: int, *, rate: float = 2.0, scale: float = 0.65
) -> Any:
    """Hold the model at a dictionary learned from the rows: the guides differ, θ does not.

    Parameters
    ----------
    v : Tensor
        Rows, shape (n, D).
    size : int
        Number of atoms.
    seed : int
    rate, scale : float
        Of the codes' Laplace prior, and the sd of the noise: by default what photographs ask for.

    Returns
    -------
    SparseCoding
        Without a parameter that learns.
    """
    online = learn_online(
        v, size, rate=rate, scale=scale, num_steps=100, batch_size=128, code_tol=1e-2, seed=seed
    )
    learned = alternate(v, online.theta, tol=1e-4)
    return hold(SparseCoding(v.shape[1], size, rate=rate, scale=scale), learned.theta)


Options = options_of(learned_model)
