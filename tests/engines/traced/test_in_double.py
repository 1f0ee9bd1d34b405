"""log(1 + x) of many single-precision numbers, in double: exact values are the oracle."""

from contextlib import nullcontext
from functools import partial
from itertools import count

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn import functional

import pyro_cookbook as pc
from pyro_cookbook.engines import svi as svi_file
from pyro_cookbook.engines.choosing import Stochastic
from pyro_cookbook.engines.svi import SVI
from pyro_cookbook.engines.traced import in_double
from pyro_cookbook.engines.traced.in_double import MANY, InDouble
from pyro_cookbook.programs.program import Program
from pyro_cookbook.programs.state.isolation import isolated

X = torch.cat([torch.linspace(-100, 100, 2001), torch.logspace(-38, 2, 999)])
Y = (torch.arange(len(X)) % 2).float()


def cross_entropy(x, y=Y):
    return functional.binary_cross_entropy_with_logits(x, y.to(x), reduction="none")


FUNCTIONS = {
    "log1p": lambda x: torch.log1p(x.abs()),
    "method": lambda x: x.abs().log1p(),
    "softplus": functional.softplus,
    "sharp softplus": lambda x: functional.softplus(x, 3.0, threshold=30),
    "layer": nn.Softplus(),
    "log_sigmoid": functional.logsigmoid,
    "cross_entropy": cross_entropy,
    "bernoulli": lambda x: dist.Bernoulli(logits=x, validate_args=False).log_prob(Y.to(x)),
    "transform": lambda x: torch.distributions.SigmoidTransform().log_abs_det_jacobian(x, None),
}


DIFFERENCES = {"cross_entropy", "bernoulli", "transform"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_the_exact_ones_rounded(name):
    function = FUNCTIONS[name]
    exact = X.double().requires_grad_()
    expected = function(exact)
    expected.sum().backward()
    x = X.clone().requires_grad_()
    with InDouble():
        found = function(x)
    found.sum().backward()
    assert found.dtype == x.grad.dtype == torch.float32
    # Two or three roundings of 2^-24; those of a difference, as torch's own is, are of its terms.
    terms = X.double().abs() if name in DIFFERENCES else 0
    error = (found.double() - expected).detach().abs()
    assert bool((error <= 3e-7 * expected.detach().abs() + 1.2e-7 * terms + 1e-37).all())
    # Torch's softplus is x above its threshold, 20, and its derivative 1.
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=3e-7, atol=6e-8)
    assert float(found.detach().std()) > 1.0


def test_a_plain_logarithm_in_single_precision_is_not_exact():
    small = X[X.abs() < 1e-3]
    exact = torch.log1p(small.double())
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close((1 + small).log().double(), exact, rtol=3e-7, atol=1e-37)


@pytest.mark.parametrize("name", ["log1p", "softplus", "log_sigmoid", "bernoulli"])
def test_no_operator_of_single_precision_is_left(name):
    from torch.fx.experimental.proxy_tensor import make_fx

    def operators(function):
        graph = make_fx(function)(X)
        nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
        slow = ("log1p", "softplus", "log_sigmoid", "binary_cross")
        return {
            node.meta["val"].dtype
            for node in nodes
            if any(one in str(node.target) for one in slow) and hasattr(node.meta["val"], "dtype")
        }

    def inside(x):
        with InDouble():
            return FUNCTIONS[name](x)

    assert operators(inside) == {torch.float64}
    assert operators(FUNCTIONS[name]) in ({torch.float32}, set())  # log_sigmoid gives a pair


LEFT = {
    "double": lambda: functional.softplus(X.double()),
    "few": lambda: functional.softplus(X[: MANY - 1]),
    "weighted": lambda: functional.binary_cross_entropy_with_logits(
        X, Y, weight=1 + Y, reduction="none"
    ),
    "mean": lambda: functional.binary_cross_entropy_with_logits(X, Y),
    "others": lambda: (X.exp(), torch.log(X.abs()), X.sigmoid()),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_not_slow_is_torchs(case):
    expected = LEFT[case]()
    with InDouble():
        found = LEFT[case]()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(40, 60), nn.Softplus(), nn.Linear(60, 2))

    def forward(self, v, num_obs=None):
        pyro.module("net", self.net)
        with pyro.plate("row", num_obs or len(v), subsample_size=len(v)):
            pyro.sample("h", dist.Normal(self.net(v), 0.3).to_event(1))


def decoder(v, num_obs=None):
    with pyro.plate("row", num_obs or len(v), subsample_size=len(v)):
        h = pyro.sample("h", dist.Normal(v.new_zeros(2), 1.0).to_event(1))
        slopes = torch.linspace(-3, 3, 80).to(v).reshape(2, 40)
        pyro.sample("v", dist.Bernoulli(logits=h @ slopes).to_event(1), obs=v)


def losses(v, steps=8):
    with isolated(0), pyro.validation_enabled(False):
        program = Program(decoder, (v,))
        options = Stochastic(pyro.infer.Trace_ELBO(), 0.01, 1000, 1.0, batch_size=50)
        svi = SVI(program, program.of(Encoder().to(v.dtype)), options)
        svi.prepare()
        for _ in range(steps):
            svi.step()
        assert svi.estimates.obstacle == ""
        assert len(svi.estimates._graphs) == 1
    return svi.losses


def test_steps_of_single_precision_are_as_without_up_to_rounding(monkeypatch):
    v = (torch.rand(200, 40, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    quick = losses(v)
    with monkeypatch.context() as patched:
        patched.setattr(in_double, "MANY", 10**9)
        plain = losses(v)
    # A loss is a sum of 200 × 40 numbers of 2^-24 each; eight steps of Adam carry it on.
    assert quick == pytest.approx(plain, rel=1e-5)
    assert quick != plain
    assert max(plain) > 1.01 * min(plain)


def test_steps_of_double_precision_stay_bit_for_bit(monkeypatch):
    v = (torch.rand(200, 40, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    quick = losses(v)
    monkeypatch.setattr(svi_file, "InDouble", nullcontext)
    assert quick == losses(v)


def test_a_fit_of_single_precision_goes_on_from_a_checkpoint_bit_for_bit(monkeypatch, tmp_path):
    v = (torch.rand(200, 40, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    torch.manual_seed(0)
    encoder = Encoder()
    options = {"batch_size": 50, "max_steps": 420, "tol": 100.0, "progress": False}
    fitted = partial(pc.fit, decoder, encoder, v, **options)
    whole = fitted()
    calls = count(1)

    def stop():
        if next(calls) == 250:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(svi_file, "heed", stop)
        with pytest.raises(KeyboardInterrupt):
            fitted(checkpoint=tmp_path / "fit")
    again = fitted(checkpoint=tmp_path / "fit")
    assert again.losses.tolist() == whole.losses.tolist()
    assert again.elbo == whole.elbo
