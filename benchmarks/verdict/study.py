"""How often is the verdict right? Models with known posteriors × families × seeds.

    python benchmarks/verdict/study.py [--held-out] [--models NAME …] [--families NAME …] …

Fits every model of the zoo with every family, asks for the verdict, and compares the numbers that
the verdict speaks of with the known answer. Writes results.csv (a row for each fit), summary.md and
study.png beside this file. About half an hour on two cores.

A fit is accurate if every mean is within a quarter of a posterior sd and every sd within 25%.
"""

import argparse
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import joblib
import numpy as np
import pandas as pd
import torch
from zoo import HELD_OUT, MODELS, ZOO
from zoo.entry import Moments

import pyro_cookbook as pc

HERE = Path(__file__).parent
FAMILIES = (
    "laplace",
    "mean_field",
    "mean_field+linear_response",
    "whitened_mean_field",
    "low_rank",
    "full_rank",
)
MAX_SHIFT = MAX_STRETCH = 0.25
# Limits of the witnesses.
KHAT, MEASURED = 0.7, 0.22


@cache
def truth(name: str) -> Moments:
    """Known means and sds, site by site."""
    exact = MODELS[name].exact
    if exact is not None:
        return {site: (np.ravel(m), np.ravel(s)) for site, (m, s) in exact().items()}
    table = pd.read_csv(HERE / "references.csv")
    table = table[table["model"] == name]
    if table.empty:
        raise ValueError(f"{name}: no reference; run references.py {name}")
    return {
        str(site): (rows["mean"].to_numpy(), rows["sd"].to_numpy())
        for site, rows in table.groupby("site")
    }


def errors(found: Moments, known: Moments) -> tuple[float, float, str]:
    """Largest true error of means (in sds) and of sds (relative), and where."""
    worst = (0.0, 0.0, "")
    for site, (mean, sd) in known.items():
        if site not in found:
            continue
        varies = sd > 1e-9 * np.maximum(1e-300, np.abs(mean))
        own_mean, own_sd = map(np.asarray, found[site])
        with np.errstate(all="ignore"):
            shift = np.abs(own_mean - mean)[varies] / sd[varies]
            stretch = np.abs(own_sd[varies] / sd[varies] - 1)
        shift, stretch = np.nan_to_num(shift, nan=np.inf), np.nan_to_num(stretch, nan=np.inf)
        largest = float(shift.max(initial=0)), float(stretch.max(initial=0))
        where = site if max(largest) > max(worst[:2]) else worst[2]
        worst = (max(worst[0], largest[0]), max(worst[1], largest[1]), where)
    return worst


def told(table: pd.DataFrame, which: str = "") -> Moments:
    """Means and sds of a diagnosis, site by site."""
    sites = table.index.str.partition("[").get_level_values(0)
    return {
        str(site): (rows[f"{which}mean"].to_numpy(), rows[f"{which}sd"].to_numpy())
        for site, rows in table.groupby(sites)
    }


def one(name: str, family: str, seed: int) -> dict:
    """Fit and judge one model with one family."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    entry, known = MODELS[name], truth(name)
    row = {"model": name, "kind": entry.kind, "family": family, "seed": seed}
    started = time.perf_counter()
    try:
        fit = pc.fit(entry.model, family.partition("+")[0], *entry.data(), seed=seed)
        if "+" in family:
            fit = pc.linear_response(fit)
        row["fit_seconds"] = time.perf_counter() - started
        started = time.perf_counter()
        diagnosis = pc.diagnose(fit, seed=seed)
    except ValueError as error:
        refused = time.perf_counter() - started
        return row | {"verdict": "refused", "reason": str(error), "fit_seconds": refused}
    row["diagnose_seconds"] = time.perf_counter() - started
    table = diagnosis.table
    row |= {
        "verdict": diagnosis.verdict,
        "khat": diagnosis.khats.get("joint", np.nan),
        "converged": fit.converged,
        "steps": len(fit.losses),
        "modes": len(fit.modes),
        "elbo": fit.elbo.value,
        "reason": " | ".join(diagnosis.reasons),
    }
    row["shift"], row["stretch"], row["where"] = errors(told(table), known)
    if "reweighted_mean" in table:
        row["rw_shift"], row["rw_stretch"], _ = errors(told(table, "reweighted_"), known)
    for which in ("", "reweighted_"):
        if f"{which}shift" in table:
            row[f"{which}measured"] = float(table[[f"{which}shift", f"{which}stretch"]].max(None))
    return row


def judge(results: pd.DataFrame) -> pd.DataFrame:
    """Add whether the fit was accurate, and whether the verdict was right."""
    good = (results["shift"] <= MAX_SHIFT) & (results["stretch"] <= MAX_STRETCH)
    mended = (results["rw_shift"] <= MAX_SHIFT) & (results["rw_stretch"] <= MAX_STRETCH)
    plain = results["verdict"] == "reliable"
    reweighted = results["verdict"] == "reliable after reweighting"
    refused = results["verdict"] == "unreliable"
    return results.assign(
        accurate=good,
        usable=plain & good | reweighted & mended,
        false_reliable=plain & ~good | reweighted & ~mended,
        false_refusal=refused & good,
    )


def witnesses(results: pd.DataFrame) -> dict[str, pd.Series]:
    """Which fits each witness would accept if it were the only one."""
    plain = results["verdict"] == "reliable"
    return {
        "the whole verdict": plain,
        "convergence": results["converged"].astype(bool),
        "k-hat of the joint weights below 0.7": results["khat"] < KHAT,
        "short chains": results["measured"] <= MEASURED,
        "short chains, and one mode": (results["measured"] <= MEASURED) & (results["modes"] <= 1),
        "any of k-hat and short chains": (results["khat"] < KHAT)
        | (results["measured"] <= MEASURED),
    }


def summary(results: pd.DataFrame) -> str:
    """Write the tables in Markdown."""
    results = judge(results)
    lines = [
        f"{results['model'].nunique()} models, {len(results)} fits.",
        "",
        f"- called reliable (plain or reweighted) and wrong: {results['false_reliable'].sum()} of"
        f" {results['verdict'].str.startswith('reliable').sum()}",
        f"- accurate and refused: {results['false_refusal'].sum()} of"
        f" {results['accurate'].sum()} accurate fits"
        f" ({results['false_refusal'].sum() / max(1, results['accurate'].sum()):.1%})",
        f"- fit, seconds: median {results['fit_seconds'].median():.2f}, worst"
        f" {results['fit_seconds'].max():.1f}; verdict, seconds: median"
        f" {results['diagnose_seconds'].median():.2f}, worst"
        f" {results['diagnose_seconds'].max():.1f}",
        "",
        "| family | fits | accurate | usable by the verdict | falsely reliable | falsely refused |"
        " no fit | median s | worst s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for family in dict.fromkeys(results["family"]):
        part = results[results["family"] == family]
        lines.append(
            f"| {family} | {len(part)} | {part['accurate'].mean():.0%} |"
            f" {part['usable'].mean():.0%} | {part['false_reliable'].sum()} |"
            f" {part['false_refusal'].sum()} | {(part['verdict'] == 'refused').sum()} |"
            f" {part['fit_seconds'].median():.2f} | {part['fit_seconds'].max():.1f} |"
        )
    lines += ["", "## Each witness on its own", ""]
    lines += ["| rule | accepted | wrong among them | accurate and refused |", "|---|---|---|---|"]
    fitted = results[results["verdict"] != "refused"]
    for rule, accepts in witnesses(fitted).items():
        lines.append(
            f"| {rule} | {accepts.sum()} | {(accepts & ~fitted['accurate']).sum()} |"
            f" {(~accepts & fitted['accurate']).sum()} |"
        )
    lines += [
        "",
        "Draws as they are, not reweighted; models counted once for each family and seed.",
    ]
    for title, column in (
        ("Called reliable and wrong", "false_reliable"),
        ("Accurate and refused", "false_refusal"),
    ):
        rows = results[results[column]]
        lines += ["", f"## {title}", ""]
        if rows.empty:
            lines.append("None.")
            continue
        lines += ["| model | family | seed | true shift | true stretch | k-hat | measured |",
                  "|---|---|---|---|---|---|---|"]  # fmt: skip
        lines += [
            f"| {r['model']} | {r['family']} | {r['seed']} | {r['shift']:.2f} | {r['stretch']:.2f}"
            f" | {r['khat']:.2f} | {r['measured']:.2f} |"
            for _, r in rows.iterrows()
        ]
    return "\n".join(lines) + "\n"


def figure(results: pd.DataFrame, path: Path) -> None:
    """True error against measured error, coloured by verdict."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    colours = {
        "reliable": "#1b7837",
        "reliable after reweighting": "#2166ac",
        "unreliable": "#b2182b",
    }
    shown = results.dropna(subset=["measured"])
    fig, axes = plt.subplots(1, 2, figsize=(12, 5.5), layout="constrained")
    for axis, x, label in (
        (axes[0], "measured", "error measured by short chains, plus k-hat and modes in colour"),
        (axes[1], "khat", "k-hat of the joint weights"),
    ):
        for verdict, colour in colours.items():
            part = shown[shown["verdict"] == verdict]
            reweighted = verdict == "reliable after reweighting"
            columns = ["rw_shift", "rw_stretch"] if reweighted else ["shift", "stretch"]
            true = part[columns].max(axis=1)
            values = part["reweighted_measured" if reweighted and x == "measured" else x]
            axis.scatter(
                values.clip(0.003 if x == "measured" else -0.5, 30 if x == "measured" else 3),
                true.clip(0.003, 30),
                s=14, alpha=0.6, color=colour, label=f"{verdict} ({len(part)})", linewidths=0,
            )  # fmt: skip
        axis.axhline(MAX_SHIFT, color="black", linewidth=0.8)
        axis.set(xlabel=label, ylabel="true error: mean (sds) or sd (relative), the worst")
        axis.set_yscale("log")
    axes[0].set_xscale("log")
    axes[0].set_xlabel("error measured by short chains")
    axes[1].axvline(0.7, color="black", linewidth=0.8, linestyle=":")
    axes[0].legend(loc="lower right", title="verdict")
    axes[0].set_title("A verdict is right below the line if green or blue, above it if red")
    axes[1].set_title("k-hat alone: small above the line, large below it")
    fig.savefig(path, dpi=130)


def known_models(held_out: bool = False) -> list[str]:
    """Models with an exact answer or a reference run."""
    sampled = set(pd.read_csv(HERE / "references.csv")["model"])
    models = HELD_OUT if held_out else ZOO
    return [name for name, entry in models.items() if entry.exact is not None or name in sampled]


def jobs(args: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    for seed in range(args.seeds):
        for name in args.models or known_models(args.held_out):
            for family in args.families or FAMILIES:
                yield name, family, seed


def where(cluster: str, processes: int | None = None) -> AbstractContextManager:
    """Say where `pc.spread` runs: in processes of this machine, or on a cluster of Dask.

    Its workers need this folder in their PYTHONPATH.
    """
    if not cluster:
        return joblib.parallel_config(n_jobs=processes or os.cpu_count())
    from dask.distributed import Client

    Client(cluster)
    return joblib.parallel_config(backend="dask")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*")
    parser.add_argument("--families", nargs="*")
    parser.add_argument("--cluster", default="", help="address of a scheduler of Dask")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--add", action="store_true", help="keep the fits in results.csv")
    parser.add_argument("--held-out", action="store_true", help="the models that came later")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.out = args.out or (HERE / "held_out" if args.held_out else HERE)
    args.out.mkdir(parents=True, exist_ok=True)
    part = args.out / "results.part.csv"
    kept = part if part.exists() or not args.add else args.out / "results.csv"
    rows = pd.read_csv(kept).to_dict("records") if kept.exists() else []
    done = {(row["model"], row["family"], row["seed"]) for row in rows}
    todo = [job for job in jobs(args) if job not in done]

    def keep(_: object, row: dict) -> None:
        rows.append(row)
        pd.DataFrame(rows).to_csv(part, index=False)  # an interrupted study is taken up again

    with where(args.cluster):
        pc.spread(lambda job: one(*job), todo, progress=None, on_result=keep)
    results = pd.DataFrame(rows).sort_values(["model", "family", "seed"], ignore_index=True)
    results.to_csv(args.out / "results.csv", index=False, float_format="%.5g")
    part.unlink(missing_ok=True)
    text = summary(results)
    (args.out / "summary.md").write_text(text)
    print(text)
    figure(results, args.out / "study.png")


if __name__ == "__main__":
    from study import main  # by that name other processes find its functions

    main()
