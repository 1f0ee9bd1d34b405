# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8 · Your data: solutions
#
# The exercises are at the end of `../08_your_data`. First its patients: 330 with holes in three
# columns, and 112 of the year after. The commands of the exercises are written here in Python;
# `pyro-cookbook fit regression --formula … --data …` gives the same.

# %%
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets

import pyro_cookbook as pc
from pyro_cookbook import data

torch.set_num_threads(1)  # the tensors are small: a second thread would only wait
names = {"s1": "tc", "s2": "ldl", "s3": "hdl", "s4": "tch", "s5": "ltg", "s6": "glu"}
patients = datasets.load_diabetes(as_frame=True, scaled=False).frame
patients = patients.rename(columns={**names, "target": "progress"})
patients["sex"] = patients["sex"].map({1.0: "a", 2.0: "b"})
patients["decade"] = (patients["age"] // 10 * 10).astype(int).astype(str) + "s"
rng = np.random.default_rng(0)
order = rng.permutation(len(patients))
later = patients.iloc[order[:112]].reset_index(drop=True)
now = patients.iloc[order[112:]].reset_index(drop=True)
for column in ("bp", "ltg", "glu"):
    now.loc[rng.choice(len(now), 3, replace=False), column] = np.nan
clinic = now.dropna(subset=["bp", "ltg"]).reset_index(drop=True)
formula = "progress ~ sex + bmi + bp + tc + ldl + ltg + (1 | decade)"
usual = pc.regression(formula, clinic)
print(usual.verdict)

# %% [markdown]
# ## 1 Outcomes that are far off
#
# Student's t has one number more, the degrees of freedom $\nu$: small for heavy tails, and from
# about 30 on hardly to be told from a normal. Its prior is a gamma of mean 20.

# %%
robust = pc.regression(formula, clinic, family="student_t")
print(robust.verdict)
shift = (robust.summary()["mean"] - usual.summary()["mean"]) / usual.summary()["sd"]
robust.summary().assign(shift=shift).style.format("{:.1f}").format(
    "{:.0f}", subset=(["Intercept"], ["mean", "sd", "eti89_lb", "eti89_ub"])
)

# %% tags=["checks"]
assert usual.may_be_used
assert robust.may_be_used
freedom = robust.summary().loc["degrees_of_freedom"]
assert freedom["eti89_lb"] > 8
assert freedom["mean"] > 25
coefficients = ["sex[b]", "bmi", "bp", "tc", "ldl", "ltg"]
assert shift[coefficients].abs().max() < 0.35

# %% [markdown]
# No: the 89% interval of $\nu$ begins above 8, and its mean is above that of its prior. Tails are
# about normal, and no coefficient moves by more than 0.35 sds. Asking cost one word.
#
# ## 2 Age instead of decades

# %%
plain = pc.regression(formula.replace("(1 | decade)", "age"), clinic)
print(plain.verdict, "by", plain.fit.family)
plain.summary().loc[["age", "scale"]].round(2)

# %% tags=["checks"]
assert plain.verdict == "reliable"
assert plain.summary().loc["age", "eti89_lb"] < 0 < plain.summary().loc["age", "eti89_ub"]
assert "group_scale" not in plain.fit.programs.model.sites
quick = pc.regression(formula, clinic, guide="full_rank")
assert quick.verdict == "unreliable"
assert "group_scale" in quick.diagnosis.reasons[0]
assert "group_scale" in quick.diagnosis.advice[0]

# %% [markdown]
# Now a Gaussian follows: the posterior of coefficients is one, given the noise, and the noise is
# known well. With `(1 | decade)` there is the sd of the decades, `group_scale`. Few decades say
# little of it; near zero the effects have no room, and further off they have. No Gaussian on its
# logarithm has that shape. The control: full rank on the formula with decades is called unreliable,
# and the site that is named is this one.
#
# ## 3 A decade that was not there

# %%
old = later.head(1).assign(age=84.0, decade="80s")
try:
    usual.predict(old)
except ValueError as error:
    print(textwrap.fill(str(error), 100))
known = usual.predict(old.assign(decade="50s"), num_draws=4000)
unknown = usual.predict(old, unseen="population", num_draws=4000)
print(f"sd of the prediction: {known['sd'].item():.0f} for a decade that is known,"
      f" {unknown['sd'].item():.0f} for a new one")  # fmt: skip

# %% tags=["checks"]
spread = usual.summary().loc["sd(1|decade)"]
decades = np.sqrt(spread["mean"] ** 2 + spread["sd"] ** 2)  # root of the mean of τ²
expected = np.hypot(known["sd"].item(), decades)
# An sd from 4,000 draws has an error of 1.1%; of two, three times, and what the effect itself has.
assert abs(unknown["sd"].item() / expected - 1) < 0.06
assert unknown["sd"].item() / known["sd"].item() < 1.1

# %% [markdown]
# A level that the fit has not seen is refused by its name. `--unseen population` draws the effect
# of the new decade from the normal of all decades. That adds the square of their sd, about 8 points
# and uncertain, to the square of 55: less than a tenth more. It says that the decade is like the
# others; it cannot know that patients of 84 are unlike those of 70.
#
# ## 4 Three files that are wrong

# %%
folder = Path(tempfile.mkdtemp())
word = clinic[["bmi", "bp", "progress"]].astype(object)
word.iloc[3, 1] = "high"
twice = clinic[["bmi", "bp"]].set_axis(["bmi", "bmi"], axis=1)
for name, frame in (("word", word), ("twice", twice)):
    frame.to_csv(folder / f"{name}.csv", index=False)


def told(function, *arguments):
    """The one line of a refusal, without the folder."""
    try:
        function(*arguments)
    except ValueError as error:
        return str(error).replace(f"{folder}/", "")
    raise AssertionError("it was not refused")


lines = [
    told(data.read, folder / "word.csv"),
    told(data.read, folder / "twice.csv"),
    told(pc.regression, "progress ~ bmi + lgt", clinic),
]
for line in lines:
    print(textwrap.fill(line, 100, subsequent_indent="    "))

# %% tags=["checks"]
assert "line 5, column 'bp': got 'high'" in lines[0]
assert "bmi" in lines[1]
assert "'lgt'" in lines[2]
assert "'ltg'" in lines[2]  # the nearest that there is
assert not any("\n" in line for line in lines)

# %% [markdown]
# Each says where, what was found, and what was expected; the last one what was probably meant.
