"""Formula regressions of seven data sets beside statsmodels: coefficients, verdicts, seconds.

    python benchmarks/regression.py        # two minutes on one core; writes regression.md

All tables ship with statsmodels or scikit-learn. Ours have the default priors, N(0, 2.5) on
standardised columns; statsmodels maximises the likelihood. Where data say much more than a prior,
posterior means are its estimates and sds its standard errors.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import statsmodels.api as sm
import statsmodels.formula.api as smf
import torch
from statsmodels.miscmodels.ordinal_model import OrderedModel

import pyro_cookbook as pc
from pyro_cookbook import data

TARGET = Path(__file__).with_suffix(".md")
SETS: Any = sm.datasets


class Case(NamedTuple):
    name: str
    formula: str
    table: pd.DataFrame
    family: str
    peer: str
    estimate: pd.Series
    se: pd.Series


def of_formula(name: str, formula: str, table: pd.DataFrame, family: str, peer: str,
               fitted: Any, renamed: Callable[[str], str] = str) -> Case:  # fmt: skip
    estimate, se = (series.rename(renamed) for series in (fitted.params, fitted.bse))
    return Case(name, formula, table, family, peer, estimate, se)


def diabetes() -> Case:
    table = data.load("diabetes").frame
    formula = "target ~ bmi + bp + s5 + C(sex)"
    found = smf.ols(formula, table).fit()
    return of_formula("diabetes", formula, table, "normal", "OLS", found,
                      lambda name: name.replace("[T.", "["))  # fmt: skip


def fair() -> Case:
    table = SETS.fair.load_pandas().data
    table = table.assign(
        affair=(table.affairs > 0).astype(int), job=table.occupation.map("job {:.0f}".format)
    )
    formula = "affair ~ rate_marriage + age * yrs_married + religious + job"
    found = smf.logit(formula, table).fit(disp=0)
    return of_formula("fair", formula, table, "bernoulli", "Logit", found,
                      lambda name: name.replace("[T.", "["))  # fmt: skip


def star98() -> Case:
    table = SETS.star98.load_pandas().data
    table = table.assign(n=table.NABOVE + table.NBELOW)
    right = "LOWINC + PERASIAN + PERBLACK + PERHISP + PCTCHRT + AVYRSEXP"
    found = smf.glm(f"NABOVE + NBELOW ~ {right}", table, family=sm.families.Binomial()).fit()
    return of_formula("star98", f"p(NABOVE, n) ~ {right}", table, "binomial", "GLM", found)


def committee() -> Case:
    table = SETS.committee.load_pandas().data
    right = "SUBS + STAFF + PRESTIGE"
    found = smf.poisson(f"BILLS104 ~ {right}", table, offset=np.log(table.SIZE)).fit(disp=0)
    return of_formula("committee", f"BILLS104 ~ {right} + offset(log(SIZE))", table, "poisson",
                      "Poisson", found)  # fmt: skip


def randhie() -> Case:
    table = SETS.randhie.load_pandas().data
    formula = "mdvis ~ lncoins + idp + lpi + fmde + physlm + disea + hlthg + hlthf + hlthp"
    found = smf.negativebinomial(formula, table).fit(disp=0)
    return of_formula("randhie", formula, table, "negative_binomial", "NegativeBinomial", found,
                      lambda name: "dispersion" if name == "alpha" else name)  # fmt: skip


def anes96() -> Case:
    table = SETS.anes96.load_pandas().data
    names = ["logpopul", "selfLR", "age", "educ", "income"]
    model = OrderedModel(table.PID.astype("category").cat.as_ordered(), table[names], distr="logit")
    found = model.fit(method="newton", disp=0)
    first = found.params.index[5]
    estimate, se = (pd.Series({**one[:5], "cut(0|1)": one[first]})
                    for one in (found.params, found.bse))  # fmt: skip
    formula = f"PID ~ {' + '.join(names)}"
    return Case("anes96", formula, table, "ordinal", "OrderedModel", estimate, se)


def grunfeld() -> Case:
    table = SETS.grunfeld.load_pandas().data
    found = smf.mixedlm("invest ~ value + capital", table, groups=table.firm).fit()
    between = float(found.cov_re.iloc[0, 0])
    # Of a variance statsmodels gives the standard error in units of the noise's.
    se_of_variance = float(found.bse["Group Var"]) * found.scale
    estimate = {**found.fe_params, "sd(1|firm)": between**0.5, "scale": found.scale**0.5}
    se = {**found.bse_fe, "sd(1|firm)": se_of_variance / (2 * between**0.5)}
    return Case("grunfeld", "invest ~ value + capital + (1 | firm)", table, "normal",
                "MixedLM (REML)", pd.Series(estimate), pd.Series(se))  # fmt: skip


CASES = (diabetes, fair, star98, committee, randhie, anes96, grunfeld)


def lines(case: Case) -> Iterator[str]:
    """Fit one set; give the rows of its table, and one that sums up."""
    started = time.perf_counter()
    found = pc.regression(case.formula, case.table, family=case.family)
    seconds = time.perf_counter() - started
    summary = found.summary()
    both = summary.loc[[name for name in summary.index if name in case.estimate]]
    estimate, se = case.estimate[both.index], case.se.reindex(both.index)
    apart = (both["mean"] - estimate) / both["sd"]
    yield f"\n## {case.name}: `{case.formula}`, {case.family}, {len(case.table)} rows\n"
    yield (
        f"Largest difference {apart.abs().max():.2f} sd. Verdict: {found.verdict}."
        f" {seconds:.1f} s.\n"
    )
    yield f"| coefficient | ours: mean ± sd | {case.peer}: estimate ± se | difference in sds |"
    yield "|---|---|---|---|"
    for name in both.index:
        error = f" ± {se[name]:.3g}" if np.isfinite(se[name]) else ""
        ours = f"{both.loc[name, 'mean']:.4g} ± {both.loc[name, 'sd']:.3g}"
        shown = str(name).replace("|", "\\|")
        yield f"| {shown} | {ours} | {estimate[name]:.4g}{error} | {apart[name]:+.2f} |"


def main() -> None:
    torch.set_num_threads(1)
    said = [
        "# Formula regressions beside statsmodels",
        "",
        "`python benchmarks/regression.py`, one core. Default priors; `pc.regression` with the"
        " guide `infer`, its verdict included in the seconds. Differences that are more than noise"
        " (4000 draws: 0.05 sd) are of the prior, of skewness (a posterior mean beside the mode)"
        " or, for sd(1|firm) of eleven firms, both;"
        " `tests/formulas/test_regression_answers.py` has that one beside an integral.",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statsmodels' own, of steps on its way
        for case in CASES:
            for line in lines(case()):
                print(line, flush=True)
                said.append(line)
    TARGET.write_text("\n".join(said) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
