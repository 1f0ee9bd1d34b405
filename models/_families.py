"""Families of outcomes: the sites that each has besides its linear predictor."""

from torch.distributions import constraints

# Family → positive sites, in the order in which the model draws them.
SPREAD: dict[str, tuple[str, ...]] = {
    "normal": ("scale",),
    "student_t": ("scale", "degrees_of_freedom"),
    "bernoulli": (),
    "binomial": (),
    "poisson": (),
    "negative_binomial": ("dispersion",),
    "ordinal": (),
}

Shape = tuple[int, ...]


def sites(
    family: str,
    num_features: int,
    num_kinds: int,
    num_effects: int,
    num_categories: int,
    has_intercept: bool,
) -> dict[str, tuple[Shape, constraints.Constraint]]:
    """Name every latent site of `models.regression.regression`, with its shape and support.

    In the order in which the model draws them; sites without entries are left out.
    """
    found: dict[str, tuple[Shape, constraints.Constraint]] = {}
    if has_intercept:
        found["intercept"] = ((), constraints.real)
    if num_features:
        found["coefficient"] = ((num_features,), constraints.real_vector)
    if num_effects:
        found["group_scale"] = ((num_kinds,), constraints.independent(constraints.positive, 1))
        found["deviation"] = ((num_effects,), constraints.real_vector)
    for name in SPREAD[family]:
        found[name] = ((), constraints.positive)
    if family == "ordinal":
        found["share"] = ((num_categories,), constraints.simplex)
    return found
