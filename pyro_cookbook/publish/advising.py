"""Advice for somebody at the command line: options that it has, files that are there."""

from dataclasses import replace
from pathlib import Path

from pyro_cookbook.publish.runs.folder import STATE
from pyro_cookbook.verdict.diagnosis import Diagnosis

# What a fit in Python takes and the command line has not.
_NOT_TYPED = ", or lower the noise: elbo=Trace_ELBO(num_particles=8)"


def as_typed(diagnosis: Diagnosis, folder: Path, model: str | None = None) -> Diagnosis:
    """Give a diagnosis whose advice can be followed from a run's folder.

    Parameters
    ----------
    diagnosis : Diagnosis
    folder : Path
        Of the run: what is to be done in Python begins by loading its fit.
    model : str, optional
        Name of a reader's own model, which is handed over when its fit is loaded.
    """
    handed = "" if model is None else f", model={model.rpartition(':')[2]}"
    loaded = f'pc.load("{folder / STATE}"{handed})'
    return replace(
        diagnosis,
        advice=tuple(
            step.replace(_NOT_TYPED, "")
            .replace("max_steps", "--max-steps")
            .replace("(fit,", f"({loaded},")
            .replace("(fit)", f"({loaded})")
            for step in diagnosis.advice
        ),
    )
