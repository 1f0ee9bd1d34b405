"""Several threads at once: of Python, which take turns, and of OpenMP, which do not spin."""

import os
import re
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyro_cookbook as pc
from pyro_cookbook.programs.state import isolation
from pyro_cookbook.programs.state.isolation import calm_threads, exclusive, isolated

Y = torch.linspace(-1.0, 2.0, 12)


def model(y: Tensor | None = None) -> None:
    see()
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("group", 3):
        theta = pyro.sample("theta", dist.Normal(mu, 1.0))
    with pyro.plate("row", 12):
        pyro.sample("y", dist.Normal(theta.repeat(4), 1.0), obs=y)


def guide(y: Tensor | None = None) -> None:
    see()
    loc = pyro.param("loc", torch.zeros(4))
    pyro.sample("mu", dist.Normal(loc[0], 0.5))
    with pyro.plate("group", 3):
        pyro.sample("theta", dist.Normal(loc[1:], 0.5))


_runs: list[bool] = []


def see() -> None:
    """Note whether a program runs inside `isolated`: only there is the setting on."""
    _runs.append(pyro.settings.get("module_local_params"))


def state() -> list[object]:
    return [
        str(pyro.util.get_rng_state()),
        pyro.settings.get(),
        list(pyro.get_param_store().keys()),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
    ]


# --- Python's threads --------------------------------------------------------------------------


def fit_one(seed: int) -> np.ndarray:
    """Fits of every engine, module and family in turn."""
    programs = [(model, "mean_field"), (model, guide), (model, AutoNormal(model)), (model, "map")]
    engine = "stochastic" if seed >= 4 else None
    fit = pc.fit(*programs[seed % 4], Y + seed, seed=seed, max_steps=30, engine=engine)
    return np.append(fit.losses, fit.elbo.value)


def test_fits_in_threads_are_as_fits_one_after_the_other():
    expected = [fit_one(seed) for seed in range(8)]
    before = state()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(fit_one, range(8)))
    assert state() == before
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


def test_one_guide_fitted_in_threads_keeps_its_model():
    """Pyro's automatic guides have no model while they are copied."""
    own = AutoNormal(model)

    def fit(seed: int) -> np.ndarray:
        return pc.fit(model, own, Y, seed=seed, max_steps=10).losses

    expected = [fit(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fit, range(4)))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert own.model is not None


FEW = {"num_draws": 20}
CHAINS = {"num_warmup": 5, "num_chains": 2}


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Every public function that runs a program, as a call that gives an array."""
    fit = pc.fit(model, "mean_field", Y)
    other = pc.fit(model, guide, Y, max_steps=20)
    path = tmp_path_factory.mktemp("fits") / "fit.safetensors"
    pc.save(other, path)
    pyro.set_rng_seed(0)
    run = MCMC(NUTS(model), num_samples=6, warmup_steps=2, disable_progbar=True)
    run.run(Y)

    def mu(tree):
        return tree.posterior["mu"].values

    return {
        "fit": lambda: pc.fit(model, "auto", Y).losses,
        "fit, noncentred": lambda: pc.fit(model, "mean_field", Y, noncentred=True).losses,
        "fit, laplace": lambda: laplace().losses,
        "fit, flow": lambda: pc.fit(model, "flow", Y, max_steps=3).losses,
        "fit, starts": lambda: pc.fit(model, "map", Y, engine="stochastic", max_steps=5).losses,
        "as_fit": lambda: np.array(pc.as_fit(model, guide, Y).elbo.value),
        "diagnose": lambda: np.array(pc.diagnose(fit, num_draws=200).elbo.value),
        "to_datatree": lambda: mu(pc.to_datatree(fit, **FEW)),
        "to_datatree, reweight": lambda: mu(pc.to_datatree(fit, reweight=True, **FEW)),
        "predict": lambda: pc.predict(fit, **FEW).predictions["y"].values,
        "refine": lambda: mu(pc.to_datatree(pc.refine(fit, budget=0.01))),  # one round
        "infer": lambda: mu(pc.infer(model, Y).tree(num_draws=20)),
        "sample": lambda: mu(pc.sample(fit, processes=1, **FEW, **CHAINS)),
        "sample, forked": lambda: mu(pc.sample(other, processes=2, **FEW, **CHAINS)),
        "compare": lambda: compared({"a": fit, "b": other}),
        "calibrate": lambda: calibrated().probabilities["mu"].values,
        "linear_response": lambda: np.array(pc.linear_response(fit).elbo.value),
        "load": lambda: mu(pc.to_datatree(pc.load(path, model=model, guide=guide), **FEW)),
        "load, family": lambda: loaded_family(fit, path.with_name("family.safetensors")),
        "from_pyro_svi": lambda: mu(pc.from_pyro_svi(model, guide, Y, **FEW)),
        "from_pyro_mcmc": lambda: mu(pc.from_pyro_mcmc(run)),
    }


def laplace() -> pc.Fit:
    return pc.fit(model, "laplace", Y, engine="stochastic", max_steps=400)


def compared(fits) -> np.ndarray:
    return pc.compare(fits, num_draws=200).table["elbo"].to_numpy()


def calibrated() -> pc.Calibration:
    return pc.calibrate(model, "map", Y, num_simulations=2, **FEW)


def loaded_family(fit, path) -> np.ndarray:
    pc.save(fit, path)
    return pc.to_datatree(pc.load(path, model=model), **FEW).posterior["mu"].values


def test_the_calls_are_all_that_is_public(calls):
    # `estimators` is a room; a regression and its estimators run programs through `fit`, `infer`,
    # and `spread` runs a function of the reader's: `test_spreading.py` looks at what that leaves.
    runs_no_program = {"hold", "save", "estimators", "regression", "spread"}
    public = {name for name in pc.__all__ if name[0].islower()} - runs_no_program
    assert {name.partition(",")[0] for name in calls} == public


@pytest.fixture(scope="module")
def alone(calls):
    """What each call gives on its own, with what it leaves and how its programs ran."""
    found = {}
    with pyro.settings.context(module_local_params=False):
        for name, call in calls.items():
            before = state()
            _runs.clear()
            found[name] = call(), _runs.copy(), state() == before
    return found


def test_every_function_runs_programs_isolated_and_leaves_no_trace(alone):
    for name, (_, isolated_runs, left_as_found) in alone.items():
        assert isolated_runs, name
        assert all(isolated_runs), name
        assert left_as_found, name


def test_all_functions_at_once_give_what_each_gives_alone(calls, alone):
    before = state()
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = {name: pool.submit(call) for name, call in calls.items()}
        found = {name: future.result() for name, future in futures.items()}
    assert state() == before
    for name, (value, *_) in alone.items():
        assert np.array_equal(found[name], value), name


def test_a_block_keeps_other_threads_out_and_lets_its_own_in():
    inside, entered = threading.Event(), []

    def enter() -> None:
        inside.set()
        with isolated(0):
            entered.append(True)

    with exclusive(), isolated(0), isolated(1):
        other = threading.Thread(target=enter)
        other.start()
        inside.wait()
        other.join(0.1)  # time to enter, were it let in
        assert not entered
    other.join()
    assert entered


def test_a_process_forked_while_another_thread_holds_the_lock_can_take_it():
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with isolated(0):
            held.set()
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fork beside other threads: that is the case
        child = os.fork()
    if not child:
        os._exit(0 if isolation._lock.acquire(blocking=False) else 1)
    _, status = os.waitpid(child, 0)
    release.set()
    holder.join()
    assert os.waitstatus_to_exitcode(status) == 0


# --- OpenMP's threads --------------------------------------------------------------------------

# What OpenMP says of itself when it is loaded, and what torch uses inside and outside.
ASK = """
{imports}
import torch
from pyro_cookbook.algorithms.gaussian_mixture import em
from pyro_cookbook.programs.state.isolation import isolated
torch.set_num_threads(2)
inside = []
real = em.m_step
def m_step(*args):
    inside.append(torch.get_num_threads())
    return real(*args)
em.m_step = m_step
em.em(torch.randn(50, 2), 2, max_iterations=2)
with isolated(0):
    inside.append(torch.get_num_threads())
print(set(inside), torch.get_num_threads())
"""
SPINS = re.compile(r"(?:GOMP_SPINCOUNT|KMP_BLOCKTIME)\s*=\s*'(\d+)")


def ask(imports: str, **environment: str) -> tuple[bool, str]:
    """Whether OpenMP's idle threads spin in a fresh process, and the numbers of threads."""
    clean = {k: v for k, v in os.environ.items() if k not in isolation.WAIT_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(imports=imports)],
        env=clean | {"OMP_DISPLAY_ENV": "VERBOSE"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (spins,) = set(SPINS.findall(done.stderr))
    return int(spins) > 0, done.stdout.strip()


@pytest.mark.parametrize(
    "imports", ["import pyro_cookbook", "import models", "import guides", "import guides, pyro"]
)
def test_imported_before_torch_idle_threads_sleep_and_all_are_used(imports):
    assert ask(imports) == (False, "{2} 2")


@pytest.mark.parametrize("imports", ["import torch, pyro_cookbook", "import pyro, models"])
def test_imported_after_torch_one_thread_is_used_and_the_number_is_as_before(imports):
    assert ask(imports) == (True, "{1} 2")


@pytest.mark.parametrize("imports", ["import pyro_cookbook", "import torch, pyro_cookbook"])
@pytest.mark.parametrize("policy", ["ACTIVE", "PASSIVE"])
def test_what_the_caller_has_set_is_kept(imports, policy):
    assert ask(imports, OMP_WAIT_POLICY=policy) == (policy == "ACTIVE", "{2} 2")


def test_the_environment_changes_only_where_it_can_still_be_read():
    code = "import os; before = dict(os.environ); {}; print(os.environ == before)"
    clean = {k: v for k, v in os.environ.items() if k not in isolation.WAIT_VARIABLES}
    for imports, kept in [("import torch, pyro_cookbook, models, guides", "True"),
                          ("import pyro_cookbook", "False")]:  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code.format(imports)],
            env=clean, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == kept


@pytest.mark.parametrize(("spins", "expected"), [(True, 1), (False, 2)])
def test_one_thread_where_they_spin_and_the_caller_s_number_back(spins, expected, monkeypatch):
    monkeypatch.setattr(isolation, "IDLE_THREADS_SPIN", spins)
    torch.set_num_threads(2)
    try:
        for block in (calm_threads(), isolated(0)):
            with block:
                assert torch.get_num_threads() == expected
            assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), calm_threads():
            raise KeyError
        assert torch.get_num_threads() == 2
        with isolated(0):
            torch.set_num_threads(1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
