"""A program that has changed since its fit is refused; one whose comments have, is not."""

import functools
import importlib.util

import pytest
import torch

import pyro_cookbook as pc
from models.factor_analysis import FactorAnalysis
from pyro_cookbook.fits.keeping.source import source_hash

TEXT = '''
import pyro
import pyro.distributions as dist


def model(y):
    """A mean."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))  # a wide prior
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
'''
Y = torch.tensor([1.0, 2.0, 3.0])


def written(tmp_path, text, name):
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.model


@pytest.mark.parametrize(
    "change",
    [
        ("A mean.", "A mean, of rows."),
        ('    """A mean."""\n', ""),
        ("# a wide prior", "# vague"),
        ("  # a wide prior", ""),
        ("    with", "\n\n    # rows\n    with"),
    ],
)
def test_words_about_a_model_may_change(tmp_path, change):
    old, new = written(tmp_path, TEXT, "old"), written(tmp_path, TEXT.replace(*change), "new")
    assert TEXT.replace(*change) != TEXT
    assert source_hash(new) == source_hash(old) is not None


@pytest.mark.parametrize(
    "change", [("10.0", "1.0"), ("dist.Normal(mu", "dist.Cauchy(mu"), ('"mu"', '"nu"')]
)
def test_a_changed_model_is_refused_unless_it_is_said_to_mean_the_same(tmp_path, change):
    model = written(tmp_path, TEXT, "old")
    changed = written(tmp_path, TEXT.replace(*change), "new")
    path = tmp_path / "fit.safetensors"
    fit = pc.fit(model, "full_rank", Y)
    pc.save(fit, path)
    assert pc.load(path, model=written(tmp_path, TEXT, "again")).elbo == fit.elbo
    with pytest.raises(ValueError, match=f"^{path}: model: its source has changed since the fit"):
        pc.load(path, model=changed)
    if '"nu"' not in change:  # another latent has no value in the file
        assert pc.load(path, model=changed, check_source=False).elbo == fit.elbo


def test_indentation_is_meaning(tmp_path):
    inside = TEXT + "        pass\n    pyro.factor('a', mu)\n"
    outside = TEXT + "        pass\n        pyro.factor('a', mu)\n"
    assert source_hash(written(tmp_path, inside, "a")) != source_hash(
        written(tmp_path, outside, "b")
    )


def test_what_has_no_source_has_no_hash():
    scope = {}
    exec("def model(y): pass", scope)
    assert source_hash(scope["model"]) is None
    assert source_hash(functools.partial(source_hash)) is None
    assert source_hash(len) is None
    assert source_hash(FactorAnalysis(3, 1)) == source_hash(FactorAnalysis(4, 2)) is not None
