"""Projects with options of their recipe: formulas, families, priors; also from the command line."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyro
import pytest
from oracles import regression as oracle
from publish.projects import alone, failures
from typer.testing import CliRunner

import pyro_cookbook as pc
from pyro_cookbook import data
from pyro_cookbook.cli import app
from pyro_cookbook.data import InputError, standardise
from pyro_cookbook.publish.adapt import adapt

FRAME = pd.DataFrame(
    {
        "x": np.sin(np.arange(30.0)),
        "team": [f"team {letter}" for letter in "abc" * 10],
        "grade": [("low", "mid", "high")[k % 3] for k in range(0, 60, 2)],
        "passed": [("no", "yes")[k // 2 % 2] for k in range(30)],
        "code": pd.Categorical([("7", "8", "9")[k % 3] for k in range(30)]),
    }
)


@pytest.fixture(autouse=True)
def plainly():
    """Pyro as a script finds it: one store for all parameters, empty."""
    with pyro.settings.context(module_local_params=False):
        pyro.clear_param_store()
        yield
        pyro.clear_param_store()


def table(frame=FRAME):
    return standardise(frame, "mine", (), "")


def test_a_regression_is_told_in_the_units_of_the_table(tmp_path, monkeypatch):
    """Sixty patients and a prior that counts, beside sums over the noise's sd on a grid."""
    full = pc.fit
    monkeypatch.setattr(pc, "fit", lambda *a, **k: full(*a, **k, max_steps=600))
    frame = data.load("diabetes").frame[["bmi", "s5", "target"]].iloc[:60]
    options = {"formula": "target ~ bmi + s5", "prior_scale": 0.3}
    adapt("regression", tmp_path / "p", table=table(frame), options=options)
    with alone(tmp_path / "p", "fit") as script:
        script.NUM_DRAWS, script.LEARNING_RATE = 4000, 0.1  # sixty rows: larger steps will do
        read = script.recognise(tmp_path / "p" / "data.csv").frame
        design = script.Design(script.FORMULA, read, script.FAMILY, script.LEVELS)
        fit = script.fit_to(design)
        tree = script.draws_of(fit, SimpleNamespace(verdict="reliable"), design)
        found = script.estimates(fit, design, tree)
        rows = script.by_row(fit, design, tree)
    columns, y = frame[["bmi", "s5"]].to_numpy(), frame.target.to_numpy()
    standard = np.column_stack([np.ones(60), (columns - columns.mean(0)) / columns.std(0)])
    exact = oracle.unknown_noise(
        standard, (y - y.mean()) / y.std(), np.full(3, 0.3), num_points=100
    )
    unit = y.std() / np.append(columns.std(0), 1.0)
    mean, sd = exact.mean[1:] * unit, exact.sd[1:] * unit
    kept = found.loc[["bmi", "s5", "scale"]]
    assert (mean / sd).min() > 1  # at 0, where a fit begins, these are off by more
    # 4000 draws: four standard errors are 0.06 sd and 5%; the optimiser stops as near.
    np.testing.assert_array_less(np.abs(kept["mean"] - mean) / sd, 0.12)
    np.testing.assert_array_less(np.abs(kept["sd"] / sd - 1), 0.1)
    # What is expected of the mean row is the mean outcome, less what the prior takes from it.
    at_mean = found.loc["intercept", "mean"] + columns.mean(0) @ kept["mean"][:2]
    assert at_mean == pytest.approx(y.mean(), abs=0.4 * y.std() / 60**0.5)
    fitted = found.loc["intercept", "mean"] + columns @ kept["mean"][:2].to_numpy()
    noise = found.loc["scale", "mean"]
    assert np.abs(rows["mean"] - fitted).max() < 5 * 1.1 * noise / 4000**0.5
    assert rows["observed"].to_numpy() == pytest.approx(y)
    assert rows["sd"].mean() == pytest.approx(noise, rel=0.1)


@pytest.mark.parametrize(
    ("formula", "family", "levels", "kept"),
    [
        ("grade ~ x + (1 | team)", "ordinal", "low, mid, high", '["low", "mid", "high"]'),
        ("passed ~ x * team", "bernoulli", None, '["no", "yes"]'),
        ("passed ~ x", "bernoulli", "yes,no", '["yes", "no"]'),
        ("grade[mid] ~ x", "bernoulli", None, "None"),
        ("x ~ team", "student_t", None, "None"),
    ],
)
def test_words_stay_words_and_their_order_is_written_down(formula, family, levels, kept, tmp_path):
    options = {"formula": formula, "family": family, "levels": levels}
    frame = FRAME.drop(columns="code")
    adapt("regression", tmp_path / "p", guide="map", table=table(frame), options=options)
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "p" / "data.csv"), frame, check_dtype=False
    )
    text = (tmp_path / "p" / "fit.py").read_text("utf-8")
    assert f"LEVELS: list[str] | None = {kept}\n" in text
    assert f'FORMULA = "{formula}"\n' in text
    with alone(tmp_path / "p", "fit") as script:
        read = script.recognise(tmp_path / "p" / "data.csv").frame
        design = script.Design(script.FORMULA, read, script.FAMILY, script.LEVELS)
        script.NUM_STEPS = 5
        model, guide = script.build(design)
        args, keywords = design.arguments(script.PRIOR_SCALE, noncentred=True)
        losses = script.train(model, guide.to(args[0]), *args, **keywords)
    assert losses[-1] < losses[0]
    answer = FRAME[design.response.name.partition("[")[0]]
    if kept != "None":
        assert [design.response.levels[int(k)] for k in design.response.y] == answer.tolist()


def test_ordered_words_with_groups_go_all_the_way(tmp_path, monkeypatch, capsys):
    """Few steps: what is tested is what is written, and its names."""
    for name, less in (("fit", {"max_steps": 20}), ("diagnose", {"num_draws": 100})):
        full = getattr(pc, name)
        monkeypatch.setattr(pc, name, lambda *a, full=full, less=less, **k: full(*a, **k | less))
    formula = {"formula": "grade ~ x + (1 | team)", "family": "ordinal", "levels": "low,mid,high"}
    adapt("regression", tmp_path / "p", table=table(FRAME.drop(columns="code")), options=formula)
    with alone(tmp_path / "p", "fit") as script:
        script.NUM_STEPS, script.NUM_DRAWS = 20, 100
        script.main()
    assert "Verdict: " in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "p" / "results" / "estimates.csv", index_col=0)
    effects = [f"1|team[team {letter}]" for letter in "abc"]
    names = ["x", "cutpoint[low|mid]", "cutpoint[mid|high]", "group_scale[1|team]", *effects]
    assert sorted(found.index) == sorted(names)
    assert np.isfinite(found).all(axis=None)
    rows = pd.read_csv(tmp_path / "p" / "results" / "rows.csv", index_col="row")
    assert rows.observed.tolist() == FRAME.grade.tolist()
    shares = rows[["P(low)", "P(mid)", "P(high)"]].sum(axis=1)
    assert shares.to_numpy() == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("04c_logistic", {"coefficient_scale": 0.01},
         '{"intercept_scale": 5.0, "coefficient_scale": 0.01}'),
        ("04c_eight", {"tau_scale": 2.0}, '{"mu_scale": 5.0, "tau_scale": 2.0}'),
        ("03", {"rate": 3.0}, "RATE, SCALE = 3.0, 0.65"),
        ("05b", {"scale": 0.5}, "RATE, SCALE = 2.0, 0.5"),
    ],
)  # fmt: skip
def test_options_are_constants_of_the_script(name, options, line, tmp_path):
    adapt(name, tmp_path / "p", options=options, table=few(name))
    assert line in (tmp_path / "p" / "fit.py").read_text("utf-8")


def few(name):
    """Eight photographs' patches, for what else would learn from all; else the recipe's table."""
    if name not in {"03", "05b"}:
        return None
    found = data.load("patches")
    return table(pd.DataFrame(found.raw[:16, :4].numpy(), columns=list("abcd")))


def test_a_prior_that_is_asked_for_is_that_of_the_fit(tmp_path):
    """With coefficients of sd 0.01 they stay near 0; with the default they do not."""
    for scale in (0.01, 2.5):
        options = {"coefficient_scale": scale}
        adapt("04c_logistic", tmp_path / str(scale), guide="laplace", options=options)
        with alone(tmp_path / str(scale), "fit") as script:
            fit = script.fit_to(script.read(tmp_path / str(scale) / "data.csv"))
        size = float(fit.guide.loc.detach()[1:].abs().max())
        assert (size < 0.05) == (scale == 0.01)
        assert fit.kwargs["coefficient_scale"] == scale


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"formul": "x ~ team"}, "--formul: no such option of regression; it has --formula,"
         " --family, --levels, --prior-scale; did you mean '--formula'?"),
        ({"formula": "x ~ teem"}, "formula: no column 'teem'; there are x, team, grade, passed,"
         " code; did you mean 'team'?"),
        ({"formula": "x ~ team", "family": "norml"}, "family: got 'norml', expected one of normal"),
        ({"formula": "grade ~ x", "family": "ordinal"}, "outcome: 'grade' has words, whose order"),
        ({"formula": "x ~ team", "prior_scale": -1.0}, "--prior-scale: got -1.0, expected a"
         " positive number"),
        ({"formula": "x ~ code"}, "--data: words of column 'code' do not look like words in a"
         " text: '7' would be a number; rename them"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(options, told, tmp_path):
    with pytest.raises(InputError) as caught:
        adapt("regression", tmp_path / "p", table=table(), options=options)
    assert str(caught.value).startswith(told)
    assert list(tmp_path.iterdir()) == []


def run(*words):
    return CliRunner().invoke(app, ["adapt", *map(str, words)])


def test_the_command_line_has_the_options_of_a_recipe(tmp_path):
    """Of a file only what the formula names is read: another column may have gaps."""
    file = tmp_path / "mine.csv"
    frame = FRAME.drop(columns="code").assign(note=[None, "a"] * 15)
    frame.to_csv(file, index=False, sep=";", decimal=",")
    words = ("--data", file, "--formula", "passed ~ poly(x, 2) + team", "--family=bernoulli")
    done = run("regression", tmp_path / "p", *words, "--prior-scale", "1.5")
    assert done.exit_code == 0, done.output
    assert list(pd.read_csv(tmp_path / "p" / "data.csv")) == ["passed", "team", "x"]
    text = (tmp_path / "p" / "fit.py").read_text("utf-8")
    assert 'FORMULA = "passed ~ poly(x, 2) + team"\n' in text
    assert 'FAMILY = "bernoulli"\n' in text
    assert "PRIOR_SCALE = 1.5\n" in text
    with alone(tmp_path / "p") as tests:
        assert failures(tests)[1] == []
    done = run("02", tmp_path / "q", "--components", 2, "--guide", "map")
    assert done.exit_code == 0, done.output
    assert "NUM_COMPONENTS = 2\n" in (tmp_path / "q" / "fit.py").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("regression", "--data", "mine.csv"), "--formula: expected one, as 'y ~ x + z"),
        (("regression", "--data", "mine.csv", "--formula", "x ~ team", "--outcome", "x"),
         "--outcome: the formula names it, before ~; leave it out"),
        (("regression", "--data", "mine.csv", "--formula", "x ~ team", "--columns", "x"),
         "--columns: the formula says which columns; leave it out"),
        (("04c_logistic", "--outcome", "x"), "--outcome: it is about --data, which is not given"),
        (("04c_eight", "--tau-scal", "3"), "--tau-scal: no such option of 04c_eight_schools; it has"
         " --mu-scale, --tau-scale; did you mean '--tau-scale'?"),
        (("02", "--components", "1.5"), "--components: got '1.5', expected a whole number"),
        (("04c_eight", "--size", "3"), "--size: no such option of 04c_eight_schools"),
        (("02", "--separator", ";"), "--separator: it is about --data, which is not given"),
    ],
)  # fmt: skip
def test_the_command_line_refuses_in_one_line(words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FRAME.to_csv("mine.csv", index=False)
    done = run(words[0], "p", *words[1:])
    assert done.exit_code == 2
    assert done.output.startswith(f"error: {told}")
    assert done.output.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]
