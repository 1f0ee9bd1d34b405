"""The stochastic engine: SVI with a learning rate that decays each time the ELBO stops rising."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor

from pyro_cookbook.engines.stopping import NUM_BATCHES, Trend, fall, trend
from pyro_cookbook.programs.drawing import Program, sample_sites

if TYPE_CHECKING:
    import pandas as pd

# The learning rate falls by these factors; the last stage only settles the noise of the steps.
DECAY = (1.0, 0.3, 0.1, 0.03, 0.01)
# Shortest first and later stage, and how often a stage's end is considered, in steps.
MIN_FIRST, MIN_LATER, CHECK_EVERY = 400, 200, 100


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
        The fit with the last good parameters, not converged.
    """

    def __init__(self, step: int, site: str, table: "pd.DataFrame") -> None:
        where = f"at site {site!r}" if site else "in the gradient only"
        super().__init__(
            f"the ELBO is not finite at step {step}, {where}; the parameters kept are those of the"
            " last good step. See .table for every site's log density."
        )
        self.step, self.site, self.table = step, site, table
        self.fit: Any = None


@dataclass
class Options:
    """Settings of `SVI`, as `pyro_cookbook.fit` documents them."""

    elbo: ELBO
    lr: float
    max_steps: int
    tol: float
    batch_size: int | None


class SVI:
    """One start of a stochastic fit, advanced step by step; its state can be saved and resumed."""

    def __init__(
        self, model: Program, guide: Program, args: Any, kwargs: Any, options: Options
    ) -> None:
        self.model, self.args, self.kwargs, self.options = model, args, kwargs, options
        enumerate_guide = isinstance(options.elbo, TraceEnum_ELBO)
        self.guide = config_enumerate(guide) if enumerate_guide else guide
        self.num_rows = count_rows(args, kwargs) if options.batch_size else 0
        self.losses: list[float] = []
        self.params: dict[str, Tensor] = {}
        self.stage, self.stage_start = 0, 0
        self.order, self.position = torch.empty(0, dtype=torch.long), 0
        self.converged, self.reason = False, ""
        self.rose: Trend | None = None  # trend at the end of the first stage
        # Random state and place in the epoch where a step began that has not ended: an interrupted
        # step is taken again.
        self.at_step: tuple[Tensor, Tensor, int] | None = None

    def prepare(self) -> None:
        """Find the parameters by one estimate of the bound, with Pyro's validation on."""
        rng_state = torch.get_rng_state()
        args, kwargs = self._batch()
        if self.options.batch_size:
            check_scale(self.model, self.guide, args, kwargs, self.num_rows)
        with poutine.trace(param_only=True) as capture, pyro.validation_enabled(True):
            self._estimate(args, kwargs, rng_state)
        self.params = {}
        for name, site in capture.trace.nodes.items():
            value: Any = site["value"]
            value = value.unconstrained() if hasattr(value, "unconstrained") else value
            known = any(value is other for other in self.params.values())  # flows share modules
            if value.requires_grad and value.is_leaf and not known:
                self.params[name] = value
        torch.set_rng_state(rng_state)
        self.position = len(self.order)
        self.good = self._copy()
        if self.params:
            self.optimizer = torch.optim.Adam(self.params.values(), lr=self.options.lr)
        else:
            self.converged, self.reason = True, "there are no parameters to fit"

    def run(self, on_step: Callable[["SVI"], None]) -> None:
        """Step until the ELBO has stopped rising or the steps are used up.

        Raises
        ------
        NonFiniteELBO
            With the parameters set back to the last good ones.
        """
        with pyro.validation_enabled(False):
            while not self.reason:
                self.step()
                self._consider_stopping()
                on_step(self)

    def step(self) -> None:
        """Take one Adam step on one estimate of the bound."""
        self.optimizer.zero_grad(set_to_none=True)
        self.at_step = (torch.get_rng_state(), self.order, self.position)
        args, kwargs = self._batch()
        rng_state = torch.get_rng_state()
        loss = self._estimate(args, kwargs, rng_state)
        gradients = [p.grad for p in self.params.values() if p.grad is not None]
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            self._fail(args, kwargs, rng_state)
        if len(self.losses) % CHECK_EVERY == 0:
            self.good = self._copy()
        self.optimizer.step()
        self.losses.append(loss)
        self.at_step = None

    def _estimate(self, args: Any, kwargs: Any, rng_state: Tensor) -> float:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered (NaN|\\+?-?inf)")  # raised just below
            elbo: Any = self.options.elbo
            loss = elbo.loss_and_grads(self.model, self.guide, *args, **kwargs)
        if not np.isfinite(loss):
            self._fail(args, kwargs, rng_state)
        return float(loss)

    def _fail(self, args: Any, kwargs: Any, rng_state: Tensor) -> None:
        """Repeat the estimate from the same random state, site by site, and raise."""
        torch.set_rng_state(rng_state)
        table, bad = log_prob_table(self.model, self.guide, args, kwargs)
        site = bad[0] if bad else ""
        self.restore(getattr(self, "good", {}))
        raise NonFiniteELBO(len(self.losses), site, table)

    def _consider_stopping(self) -> None:
        options, step = self.options, len(self.losses)
        stage_steps = step - self.stage_start
        share = options.max_steps * (self.stage + 1) // len(DECAY)
        out_of_steps = step >= share
        shortest = MIN_LATER if self.stage else MIN_FIRST
        if stage_steps < shortest and step < options.max_steps:
            return
        if stage_steps % CHECK_EVERY and not out_of_steps:
            return
        window = max(shortest // 2, stage_steps // 2)
        if step < 2 * NUM_BATCHES:
            self.reason = f"out of steps: {step} are too few to tell a rise from noise"
            return
        # Where the steps run out early in a stage the window reaches into the one before.
        latest = trend(self.losses[-max(2 * NUM_BATCHES, min(window, stage_steps)) :])
        stopped = latest.has_stopped(options.tol)
        if not (stopped or out_of_steps):
            return
        if self.stage == 0:
            self.rose = latest
        if self.stage + 1 < len(DECAY) and step < options.max_steps:
            self.stage, self.stage_start = self.stage + 1, step
            for group in self.optimizer.param_groups:
                group["lr"] = options.lr * DECAY[self.stage]
            return
        self.converged, self.reason = self._conclude(latest, stopped)

    def _conclude(self, latest: Trend, stopped: bool) -> tuple[bool, str]:
        tol, first = self.options.tol, self.rose or latest
        if first.rise > 2 * first.se and not first.has_stopped(tol):
            return False, f"out of steps while rising: {first} at the first learning rate"
        lost = fall(self.losses)
        if lost.is_real(tol):
            return False, (
                f"the ELBO ended {lost.nats:.2g} nats below its best, at step {lost.step}: the"
                " learning rate is too large, or the guide has left the posterior"
            )
        if stopped:
            return True, f"{latest}, less than the tolerance of {tol:.2g}"
        return False, f"out of steps: {latest}; the noise hides a rise above {tol:.2g}"

    def _batch(self) -> tuple[Any, Any]:
        if not self.options.batch_size:
            return self.args, self.kwargs
        if self.position >= len(self.order):
            self.order, self.position = torch.randperm(self.num_rows), 0
        rows = self.order[self.position : self.position + self.options.batch_size]
        self.position += self.options.batch_size
        args, kwargs = take_rows(self.args, self.kwargs, rows, self.num_rows)
        return args, {**kwargs, "num_obs": self.num_rows}

    def _copy(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.params.items()}

    def restore(self, values: dict[str, Tensor]) -> None:
        """Set the parameters."""
        with torch.no_grad():
            for name, value in values.items():
                self.params[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue with the same numbers."""
        rng, order, position = self.at_step or (torch.get_rng_state(), self.order, self.position)
        return {
            "params": self._copy(),
            "optimizer": self.optimizer.state_dict() if self.params else {},
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "stage": [self.stage, self.stage_start],
            "order": order,
            "position": position,
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
        self.order, self.position = state["order"], state["position"]
        self.rose = Trend(*state["rose"]) if state["rose"] else None
        self.converged, self.reason = state["end"]
        torch.set_rng_state(state["rng"])


def _tensors(args: Any, kwargs: Any) -> Iterator[Tensor]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim():
            yield value


def count_rows(args: Any, kwargs: Any) -> int:
    """Rows of the data: the length of the first tensor among the arguments."""
    for value in _tensors(args, kwargs):
        return len(value)
    raise ValueError("batch_size: the data hold no tensor to take rows from")


def take_rows(args: Any, kwargs: Any, rows: Tensor, num_rows: int) -> tuple[Any, Any]:
    """Take the rows of every tensor that has one entry per row; pass everything else on."""

    def take(value: Any) -> Any:
        by_row = isinstance(value, Tensor) and value.dim() and len(value) == num_rows
        return value[rows.to(value.device)] if by_row else value

    return tuple(take(value) for value in args), {k: take(v) for k, v in kwargs.items()}


def check_scale(model: Program, guide: Program, args: Any, kwargs: Any, num_rows: int) -> None:
    """Refuse a model or guide that does not scale a mini-batch up to the whole data.

    Raises
    ------
    ValueError
        Naming the site, the scale it has and the scale it needs.
    """
    size = count_rows(args, kwargs)
    with torch.no_grad():
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(
            *args, **kwargs
        )
    observed = [node for node in sample_sites(model_trace).values() if node["is_observed"]]
    row_plates = {frame.name for node in observed for frame in node["cond_indep_stack"]}
    for trace, program in ((model_trace, "model"), (guide_trace, "guide")):
        for name, node in sample_sites(trace).items():
            by_row = any(frame.name in row_plates for frame in node["cond_indep_stack"])
            if (by_row or node["is_observed"]) and abs(
                float(node["scale"]) - num_rows / size
            ) > 1e-6 * num_rows / size:
                raise ValueError(
                    f"batch_size: site {name!r} of the {program} has scale"
                    f" {float(node['scale']):g} on {size} of {num_rows} rows, expected"
                    f" {num_rows / size:g}; open its plate as"
                    " pyro.plate(name, num_obs, subsample_size=len(batch))"
                )


def log_prob_table(
    model: Program, guide: Program, args: Any, kwargs: Any
) -> "tuple[pd.DataFrame, list[str]]":
    """Log density of one draw, site by site, in the model and in the guide; and the bad sites.

    A site that one of the two does not have is NaN there, which does not make it bad.
    """
    import pandas as pd  # local: slower to import than many fits take, and seldom needed

    table: dict[str, dict[str, float]] = {}
    bad: list[str] = []
    with torch.no_grad(), pyro.validation_enabled(False):
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = poutine.replay(model, trace=guide_trace)
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        for trace, program in ((guide_trace, "guide"), (model_trace, "model")):
            for name, node in sample_sites(trace).items():
                log_prob = float(node["fn"].log_prob(node["value"]).sum())
                table.setdefault(name, {})[program] = log_prob
                if not np.isfinite(log_prob):
                    bad.append(name)
    return pd.DataFrame.from_dict(table, orient="index", columns=["model", "guide"]), bad
