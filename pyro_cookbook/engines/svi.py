"""One start of SVI: its steps, and a learning rate that decays each time the ELBO stops rising."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyro
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

from pyro_cookbook.engines.batches import check_scale
from pyro_cookbook.engines.choosing import Stochastic
from pyro_cookbook.engines.stopping import (
    HIDDEN,
    NUM_BLOCKS,
    Blocks,
    Trend,
    fall,
    looks,
    trend,
)
from pyro_cookbook.engines.streams.parts import parts_for
from pyro_cookbook.engines.streams.ranks import of_first
from pyro_cookbook.engines.streams.source import FirstRows, batches_for
from pyro_cookbook.engines.traced.adam import Adam
from pyro_cookbook.engines.traced.estimates import Estimate, Estimates
from pyro_cookbook.engines.traced.in_double import InDouble
from pyro_cookbook.programs.density.enumeration import enumerating
from pyro_cookbook.programs.observing import Reading
from pyro_cookbook.programs.program import Program, sample_sites
from pyro_cookbook.programs.state.interruption import heed

if TYPE_CHECKING:
    import pandas as pd

# The learning rate falls by these factors; the last stage only settles the noise of the steps.
DECAY = (1.0, 0.3, 0.1, 0.03, 0.01)
# The last stage whose rate is so high that a rise which the steps do not suffice for shows.
_STILL_FAST = 1
# Shortest first and later stage, and how often a copy of the parameters is kept, in steps.
MIN_FIRST, MIN_LATER, COPY_EVERY = 400, 200, 100
# Estimates that say whether the last parameters or their mean have the higher bound.
_FOR_END = 100
# Estimates by which a rise is measured: at first, and at most one for so many steps of the stage;
# of mini-batches, each of so many times as many rows.
_FEWEST, _SHARE, _MORE_ROWS = 8, 32, 8
# So many standard errors or tolerances of difference need no further estimates.
_CLEARLY = 10

Array = npt.NDArray[np.float64]


class NonFiniteELBO(ArithmeticError):
    """The ELBO or its gradient stopped being a number.

    Attributes
    ----------
    step : int
        The step it happened at, from 0.
    site : str
        The first site whose log density is not finite; "" if only the gradient is not.
    table : pandas.DataFrame
        Log density of every site in the model and in the guide.
    fit : Fit or None
        The fit with the parameters of the last copy before, at most 99 steps old; not converged.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> import pyro_cookbook as pc
    >>> def model(y):
    ...     h = pyro.sample("h", dist.Normal(0.0, 1.0))
    ...     pyro.sample("y", dist.Normal(h, 1.0), obs=y)
    ...     pyro.factor("lost", torch.tensor(-torch.inf))
    >>> try:
    ...     pc.fit(model, "mean_field", torch.tensor(1.0), engine="stochastic")
    ... except pc.NonFiniteELBO as error:
    ...     print(error.step, error.site)
    0 lost
    """

    def __init__(self, step: int, site: str, table: "pd.DataFrame") -> None:
        where = f"at site {site!r}" if site else "in the gradient only"
        super().__init__(
            f"the ELBO is not finite at step {step}, {where}; the parameters kept are those after"
            f" {step - step % COPY_EVERY} steps. See .table for every site's log density."
        )
        self.step, self.site, self.table = step, site, table
        self.fit: Any = None


class SVI:
    """One start of a stochastic fit, advanced step by step; its state can be saved and resumed."""

    def __init__(self, model: Program, guide: Program, options: Stochastic, seed: int = 0) -> None:
        self.model, self.options = model, options
        if model.summed:
            model = model.of(enumerating(model.function, model.summed))
            self.model = model
        if isinstance(options.elbo, TraceEnum_ELBO):
            guide = guide.of(config_enumerate(guide.function))
        self.guide = guide
        self.has_idle = bool(model.idle)  # latents that a mask leaves without a density
        if options.source is not None:
            model, guide = (one.of(FirstRows()(one.function)) for one in (model, guide))
            self.model, self.guide = model, guide
        self.batches = batches_for(model, options.batch_size, options.source, seed)
        self.parts = parts_for(self.batches, options.source)
        self.losses: list[float] = []
        self.params: dict[str, Tensor] = {}
        self.stage, self.stage_start = 0, 0
        self.converged, self.reason = False, ""
        self.rose: Trend | None = None  # trend at the end of the last fast stage
        self.blocks = Blocks()
        none: Any = {"by_rows": False, "programs": {}, "to_come": int}
        self.estimates = Estimates(self._run, options.elbo, [], **none)
        # Random state and place in the epoch where a step began that has not ended: an interrupted
        # step is taken again.
        self.at_step: tuple[Tensor, list[Any]] | None = None

    def prepare(self) -> None:
        """Find the parameters by one estimate of the bound, with Pyro's validation on."""
        rng_state = torch.get_rng_state()
        model = self._next()
        if self.batches:
            check_scale(model, self.guide.function, self.batches.num_rows)
        with poutine.trace(param_only=True) as capture, pyro.validation_enabled(True):
            self._estimate(model, rng_state)
        self.params = {}
        for name, site in capture.trace.nodes.items():
            value: Any = site["value"]
            value = value.unconstrained() if hasattr(value, "unconstrained") else value
            known = any(value is other for other in self.params.values())  # flows share modules
            if value.requires_grad and value.is_leaf and not known:
                self.params[name] = value
        torch.set_rng_state(rng_state)
        if self.batches:
            self.batches.rewind()
        if self.parts:
            self.restore(of_first(self._copy()))
        self.good = self._copy()
        if self.params:
            self.optimizer = Adam(list(self.params.values()), self.options.lr)
        else:
            self.converged, self.reason = True, "there are no parameters to fit"
        self.estimates = Estimates(
            self._run, self.options.elbo, list(self.params.values()), by_rows=bool(self.batches),
            programs={"model": self.model.function, "guide": self.guide.function},
            to_come=self._sure_steps,
        )  # fmt: skip

    def run(self, on_step: Callable[["SVI"], None]) -> None:
        """Step until the ELBO has stopped rising or the steps are used up.

        Raises
        ------
        NonFiniteELBO
            With the parameters set back to those of the last copy.
        """
        with pyro.validation_enabled(False):
            self._consider_stopping()  # interrupted while it did
            while not self.reason:
                heed()
                self.step()
                self._consider_stopping()
                on_step(self)

    def step(self) -> None:
        """Take one Adam step on one estimate of the bound."""
        self.at_step = (torch.get_rng_state(), self._place())
        model = self._next()
        rng_state = torch.get_rng_state() if self.batches else self.at_step[0]
        loss, gradients = self._estimate(model, rng_state)
        if not self.optimizer.take(gradients):
            self._fail(model, rng_state)
        if len(self.losses) % COPY_EVERY == 0:
            self.good = self._copy()
        self.optimizer.step()
        self.losses.append(loss)
        done = len(self.losses) - self.stage_start
        self.blocks.add(self.params, done, next(n for n in self._looks() if n >= done))
        self.at_step = None

    def _estimate(self, model: Program, rng_state: Tensor) -> Estimate:
        estimate = self.estimates.gradients
        if self.parts is None:
            loss, gradients = estimate(model)
        else:
            loss, gradients = self.parts.run(estimate, model, self.params.values())
        if not np.isfinite(loss):
            self._fail(model, rng_state)
        return loss, gradients

    def _loss(self, model: Program) -> float:
        """Estimate −ELBO without its gradient; not finite where the parameters are bad."""
        if self.parts is None:
            return self.estimates.loss(model)
        return self.parts.run(lambda part: (self.estimates.loss(part), []), model, ())[0]

    def _run(self, model: Program, method: str) -> Any:
        guide = model.of(self.guide.function) if self.batches else self.guide
        functions: list[Any] = [model.function, guide.function]
        if self.has_idle:
            functions = [Reading(one.idle)(one.function) for one in (model, guide)]
        with warnings.catch_warnings(), Reading(), InDouble():
            warnings.filterwarnings("ignore", "Encountered (NaN|\\+?-?inf)")  # raised just below
            return getattr(self.options.elbo, method)(*functions, *model.args, **model.kwargs)

    def _fail(self, model: Program, rng_state: Tensor) -> None:
        """Repeat the estimate from the same random state, site by site, and raise."""
        torch.set_rng_state(rng_state)
        table, bad = log_prob_table(model, model.of(self.guide.function))
        site = bad[0] if bad else ""
        self.restore(getattr(self, "good", {}))
        raise NonFiniteELBO(len(self.losses), site, table)

    def _looks(self) -> list[int]:
        """Give the steps of this stage after which its end is considered."""
        left = self.options.max_steps - self.stage_start
        share = self.options.max_steps * (self.stage + 1) // len(DECAY) - self.stage_start
        shortest = MIN_LATER if self.stage else MIN_FIRST
        length = min(max(share, shortest), left)
        return looks(left if left - length < shortest else length, shortest)

    def _sure_steps(self) -> int:
        """Give a number of steps that are sure to be taken: this stage's, and the later ones'."""
        done, left = len(self.losses) - self.stage_start, self.options.max_steps - len(self.losses)
        stage = next((n for n in self._looks() if n > done), done) - done
        return min(stage + (len(DECAY) - 1 - self.stage) * MIN_LATER, left)

    def _consider_stopping(self) -> None:
        step, planned = len(self.losses), self._looks()
        done = step - self.stage_start
        if self.reason or done not in planned or not self.blocks.counts:
            return
        if len(self.blocks.counts) < NUM_BLOCKS:
            self.reason = f"out of steps: {step} are too few to tell a rise from noise"
            return
        means = self.blocks.means()
        latest = self._rise(means, done)
        self.blocks.clear()
        stopped = latest.has_stopped(self.options.tol)
        if self.stage == 0:  # a slow rise that is seen adds up
            stopped &= not latest.would_rise(self.options.max_steps - step, self.options.tol)
        if not (stopped or done == planned[-1]):
            return
        if self.stage <= _STILL_FAST:
            self.rose = latest
        if self.stage + 1 < len(DECAY) and step < self.options.max_steps:
            self.stage, self.stage_start = self.stage + 1, step
            for group in self.optimizer.param_groups:
                group["lr"] = self.options.lr * DECAY[self.stage]
            return
        self._settle(means)
        self.converged, self.reason = self._conclude(latest, stopped)

    def _settle(self, means: list[dict[str, Tensor]]) -> None:
        """End at the mean of the last window, unless the bound is seen to be lower there."""
        middle = {name: torch.stack([one[name] for one in means]).mean(0) for name in self.params}
        gain = self._gain([self._copy(), middle])
        if gain.mean() > -2 * gain.std(ddof=1) / np.sqrt(len(gain)) or not gain.any():
            self.restore(middle)

    def _gain(self, points: list[dict[str, Tensor]]) -> Array:
        """By how much the ELBO differs between two points, so often until it is plain or known."""
        num = _FOR_END // 8 if self.batches else _FOR_END  # of rows there are as many, then
        gain = self._elbos(points, num, seed=0) @ [-1.0, 1.0]
        se = gain.std(ddof=1) / np.sqrt(num)
        if num < _FOR_END and abs(gain.mean()) < _CLEARLY * se:
            gain = self._elbos(points, _FOR_END, seed=0) @ [-1.0, 1.0]
        return gain

    def _rise(self, means: list[dict[str, Tensor]], done: int) -> Trend:
        """Measure the rise of the ELBO from block to block, on the draws and the rows of one.

        More estimates are taken until their noise hides nothing, or they cost too much.
        """
        tol = self.options.tol
        if self.batches:  # a whole look at mini-batches costs as much as a hundred steps and more
            gain = self._elbos([means[0], means[-1]], _FEWEST // 2, seed=0) @ [-1.0, 1.0]
            steep = len(means) / (len(means) - 1) / 2 * gain  # half a window's share
            se = float(steep.std(ddof=1)) / len(steep) ** 0.5
            if steep.mean() > _CLEARLY * max(se, tol):
                return Trend(float(steep.mean()), se, done - done // 2)
        elbos = self._elbos(means, _FEWEST, 0)
        while True:
            found = trend(elbos, done - done // 2)
            decided = found.has_stopped(tol) or abs(found.rise) > max(tol, 3 * found.se)
            hides = found.noise > max(tol / 4, found.se / 2)  # what more estimates would show
            if decided or not hides or len(elbos) * _SHARE > done:
                return found
            elbos = np.vstack([elbos, self._elbos(means, len(elbos), len(elbos))])

    def _elbos(self, points: list[dict[str, Tensor]], num: int, seed: int) -> Array:
        """Estimate the ELBO at several values of the parameters, shape (num, points)."""
        now, place = self._copy(), self._place()
        elbos = np.empty((num, len(points)))
        try:
            with torch.random.fork_rng():
                for i, values in enumerate(points):
                    self.restore(values)
                    torch.manual_seed(seed)
                    for k in range(num):
                        heed()
                        elbos[k, i] = -self._loss(self._many())
        finally:
            self.restore(now)
            if self.batches:
                self.batches.place = place
        return elbos

    def _many(self) -> Program:
        """Give the model on more rows than a step takes, drawn anew, or on all data."""
        return self.batches.some(_MORE_ROWS) if self.batches else self.model

    def _conclude(self, latest: Trend, stopped: bool) -> tuple[bool, str]:
        tol, first = self.options.tol, self.rose or latest
        if first.is_rising(tol) or first.would_rise(self.options.max_steps, tol):
            return False, f"out of steps while rising: {first} before the learning rate fell"
        lost = fall(self.losses)
        if lost.is_real(tol):
            return False, (
                f"the ELBO ended {lost.nats:.2g} nats below its best, at step {lost.step}: the"
                " learning rate is too large, or the guide has left the posterior"
            )
        if stopped:
            return True, f"{latest}, less than the tolerance of {tol:.2g}"
        if latest.is_rising(tol):
            return False, f"out of steps while rising: {latest} at the last learning rate"
        return False, f"out of steps: {latest}; {HIDDEN} above {tol:.2g}"

    def _next(self) -> Program:
        """Give the model on the next mini-batch, or on all data."""
        return self.batches.take() if self.batches else self.model

    def _place(self) -> list[Any]:
        return self.batches.place if self.batches else []

    def _copy(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.params.items()}

    def restore(self, values: dict[str, Tensor]) -> None:
        """Set the parameters."""
        with torch.no_grad():
            for name, value in values.items():
                self.params[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue with the same numbers."""
        rng, place = self.at_step or (torch.get_rng_state(), self._place())
        return {
            "params": self._copy(),
            "optimizer": self.optimizer.state_dict() if self.params else {},
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "stage": [self.stage, self.stage_start],
            "place": place,
            "blocks": [self.blocks.sums, self.blocks.counts],
            "rng": rng,
            "rose": [self.rose.rise, self.rose.se, self.rose.num_steps] if self.rose else [],
            "end": [self.converged, self.reason],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; the random state is set too."""
        self.restore(state["params"])
        if self.params:
            self.optimizer.load_state_dict(state["optimizer"])
        self.losses = state["losses"].tolist()
        self.stage, self.stage_start = state["stage"]
        if self.batches:
            self.batches.place = state["place"]
        self.blocks.sums, self.blocks.counts = state["blocks"]
        self.rose = Trend(*state["rose"]) if state["rose"] else None
        self.converged, self.reason = state["end"]
        torch.set_rng_state(state["rng"])


def log_prob_table(model: Program, guide: Program) -> "tuple[pd.DataFrame, list[str]]":
    """Log density of one draw, site by site, in the model and in the guide; and the bad sites.

    A site that one of the two does not have is NaN there, which does not make it bad.
    """
    import pandas as pd  # local: slower to import than many fits take, and seldom needed

    table: dict[str, dict[str, float]] = {}
    bad: list[str] = []
    with torch.no_grad(), pyro.validation_enabled(False):
        guide_trace = poutine.trace(guide).get_trace()
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace()
        for trace, program in ((guide_trace, "guide"), (model_trace, "model")):
            for name, node in sample_sites(trace).items():
                log_prob = float(node["fn"].log_prob(node["value"]).sum())
                table.setdefault(name, {})[program] = log_prob
                if not np.isfinite(log_prob):
                    bad.append(name)
    return pd.DataFrame.from_dict(table, orient="index", columns=["model", "guide"]), bad
