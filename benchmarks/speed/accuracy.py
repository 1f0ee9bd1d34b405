"""Errors of means and sds of every family on the three problems, against a long NUTS run.

    python benchmarks/speed/accuracy.py [PROBLEM …]

Writes accuracy.md beside this file. Errors are the largest over all latent scalars: of means in
posterior sds, of sds relative. "reweighted" are the same after Pareto-smoothed importance weights,
where k-hat allows them.
"""

import sys
from pathlib import Path

import arviz as az
import numpy as np
import pandas as pd
import torch

torch.set_default_dtype(torch.float64)

from pyro_models import MODELS, data  # noqa: E402

import pyro_cookbook as pc  # noqa: E402

HERE = Path(__file__).parent
FAMILIES = (
    "map",
    "laplace",
    "mean_field",
    "mean_field+linear_response",
    "whitened_mean_field",
    "full_rank",
)


def worst(table: pd.DataFrame, which: str, known: pd.DataFrame) -> str:
    """Largest error of a mean and of an sd."""
    if f"{which}mean" not in table:
        return "–"
    table = table.loc[known.index]
    shift = (table[f"{which}mean"] - known["mean"]).abs() / known["sd"]
    stretch = (table[f"{which}sd"] / known["sd"] - 1).abs()
    return f"{shift.max():.2f}, {stretch.max():.0%}"


def point(fit: pc.Fit, known: pd.DataFrame) -> str:
    """The same for a point, which has no sd."""
    posterior = pc.to_datatree(fit, num_draws=1)["posterior"]
    values = np.concatenate([np.ravel(posterior[s].to_numpy()) for s in dict.fromkeys(known.site)])
    return f"{(np.abs(values - known['mean']) / known['sd']).max():.2f}, 100%"


def main(names: list[str]) -> None:
    lines = []
    for name in names:
        full = pc.fit(MODELS[name], "full_rank", *data(name))
        nuts = pc.sample(full, num_draws=1500, num_warmup=400)
        summary = az.summary(nuts, kind="diagnostics", round_to="none")
        rows = []
        for site, value in nuts["posterior"].data_vars.items():
            flat = value.to_numpy().reshape(value.shape[0] * value.shape[1], -1)
            labels = [f"{site}[{i}]" for i in range(flat.shape[1])] if value.ndim > 2 else [site]
            rows += [
                {"label": label, "site": site, "mean": m, "sd": s}
                for label, m, s in zip(labels, flat.mean(0), flat.std(0), strict=True)
            ]
        known = pd.DataFrame(rows).set_index("label")
        lines += [
            f"**{name}**: {len(known)} scalars; NUTS 4 × 1,500 draws, least ESS"
            f" {summary['ess_bulk'].min():.0f}, largest R-hat {summary['r_hat'].max():.3f},"
            f" {int(nuts['sample_stats']['diverging'].sum())} divergences.",
            "",
            "| family | ELBO, nats | mean, sd error | reweighted | k-hat | verdict | fit, s |",
            "|---|---|---|---|---|---|---|",
        ]
        for family in FAMILIES:
            try:
                fit = pc.fit(MODELS[name], family.partition("+")[0], *data(name))
            except ValueError as refusal:
                reason = str(refusal).partition(":")[2].partition(":")[0].strip()
                lines.append(f"| {family} | – | – | – | – | refused: {reason} | – |")
                continue
            if "+" in family:
                fit = pc.linear_response(fit)
            found = pc.diagnose(fit)
            if family == "map":
                errors, reweighted = point(fit, known), "–"
            else:
                errors = worst(found.table, "", known)
                reweighted = worst(found.table, "reweighted_", known)
            khat = found.khats.get("joint", np.nan)
            lines.append(
                f"| {family} | {'–' if family == 'map' else found.elbo} | {errors} | {reweighted}"
                f" | {'–' if np.isnan(khat) else f'{khat:.2f}'} | {found.verdict} |"
                f" {fit.seconds:.1f} |"
            )
            print(lines[-1], flush=True)
        lines.append("")
    (HERE / "accuracy.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:] or list(MODELS))
