"""What `fit` can be told, checked, and handed to the engine that it is for."""

from dataclasses import dataclass
from typing import Any

from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO

from pyro_cookbook.engines.choosing import (
    DETERMINISTIC,
    STOCHASTIC,
    Deterministic,
    Stochastic,
    choose_engine,
)
from pyro_cookbook.engines.families import MAX_FULL_RANK, is_named
from pyro_cookbook.engines.stopping import HIDDEN
from pyro_cookbook.engines.streams.ranks import world
from pyro_cookbook.engines.streams.source import RowSource
from pyro_cookbook.fits.keeping.checkpoint import settings_of
from pyro_cookbook.programs.options import check_positive, check_whole
from pyro_cookbook.programs.program import Function, Program

__all__ = ["DETERMINISTIC", "HIDDEN", "MAX_FULL_RANK", "STOCHASTIC", "Settings", "is_named"]

_LR, _FLOW_LR = 0.03, 0.01  # faster, a flow leaves the posterior
# A rise of the ELBO that counts as none: for each latent scalar, and at least, in nats.
_TOL_EACH, _TOL_LEAST = 1e-3, 0.05


def _elbo_for(model: Program) -> ELBO:
    """Trace_ELBO, or where latents are summed out the estimator that does it."""
    if not model.summed:
        return Trace_ELBO()
    nesting = max(len(site.batch_shape) for site in model.sites.values())
    return TraceEnum_ELBO(max_plate_nesting=nesting)


@dataclass(frozen=True)
class Settings:
    """The keywords of `fit` that an engine may have, as they were given.

    Raises
    ------
    ValueError
        If a value is out of range, naming it.
    """

    seed: int
    engine: str | None
    elbo: ELBO | None
    lr: float | None
    max_steps: int
    tol: float | None
    batch_size: int | None
    num_restarts: int | None
    source: RowSource | None = None

    def __post_init__(self) -> None:
        check_whole(1, num_restarts=self.num_restarts, max_steps=self.max_steps)
        check_whole(1, batch_size=self.batch_size)
        check_positive(lr=self.lr, tol=self.tol)

    def choose(
        self, model: Program, guide: Function | str
    ) -> tuple[Deterministic | Stochastic, str]:
        """Choose an engine; give its options, and why it is that one.

        Raises
        ------
        ValueError
            If the engine asked for cannot serve, or has no such keyword as was given.
        """
        name, why = choose_engine(
            self.engine, model, guide, elbo=self.elbo, batch_size=self.batch_size
        )
        if name == DETERMINISTIC:
            for keyword in ("lr", "tol"):
                if getattr(self, keyword) is not None:
                    raise ValueError(
                        f"{keyword}: the deterministic engine, which fits {guide!r} here, has none;"
                        " leave it out or ask for engine='stochastic'"
                    )
            return Deterministic(self.num_restarts, self.max_steps), why
        if model.summed and not isinstance(self.elbo, TraceEnum_ELBO | None):
            raise ValueError(
                f"elbo: got {type(self.elbo).__name__}, but {', '.join(map(repr, model.summed))} is"
                " discrete and not in the guide; expected a TraceEnum_ELBO, which sums it out"
            )
        if guide == "whitened_mean_field":
            raise ValueError(
                f"guide: 'whitened_mean_field' is for the deterministic engine, which cannot serve"
                f" here ({why}); use 'mean_field' or 'full_rank'"
            )
        options = Stochastic(
            elbo=self.elbo or _elbo_for(model),
            lr=self.lr or (_FLOW_LR if guide == "flow" else _LR),
            max_steps=self.max_steps,
            tol=self.tol or max(_TOL_LEAST, _TOL_EACH * self._num_latents(model)),
            batch_size=self.batch_size,
            num_starts=self.num_restarts or 1,
            source=self.source,
        )
        return options, why if self.source is None else f"{why}; {self.source.told}"

    def _num_latents(self, model: Program) -> float:
        """Count latent scalars: of all rows to fit, where the model is on those held out."""
        if self.source is None:
            return model.num_latents
        return model.num_latents * self.source.num_rows / len(model.args[0])

    @staticmethod
    def name_of(options: Deterministic | Stochastic) -> str:
        """Name the engine that options are for."""
        return STOCHASTIC if isinstance(options, Stochastic) else DETERMINISTIC

    def record(
        self, model: Program, guide: Function | str, options: Deterministic | Stochastic
    ) -> dict[str, Any]:
        """Record what must be equal for a checkpoint to continue this very fit."""
        told = dict(vars(options))
        source = told.pop("source", None)
        found = settings_of(
            model.function, guide, model.args, model.kwargs, engine=self.name_of(options),
            seed=self.seed, **told,
        )  # fmt: skip
        if source is None:
            return found
        # First, as it is what a reader changes: the rows held out and their scale follow from it.
        rows = settings_of("", "", (), {}, **{"content of the shards": [source.fingerprint]})
        return {**rows, **found, "parts": source.parts or world()[1]}
