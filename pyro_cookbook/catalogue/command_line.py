"""A recipe's own options and its table, as the command line gives them."""

from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from pyro_cookbook.catalogue.entries import Recipe
from pyro_cookbook.catalogue.options import flag_of
from pyro_cookbook.data import InputError, Table, did_you_mean, load, read, read_patches

# Options of the command that are no recipe's, for the nearest match to an unknown one.
_COMMON = (
    "--guide", "--data", "--columns", "--exclude", "--outcome", "--missing", "--separator",
    "--decimal", "--encoding", "--no-header", "--out", "--overwrite", "--seed", "--draws",
)  # fmt: skip
_READ_ONLY = ("columns", "exclude", "separator", "decimal", "encoding", "header")


def read_options(recipe: Recipe, words: Sequence[str]) -> dict[str, Any]:
    """Read what follows the options that every recipe has.

    Parameters
    ----------
    recipe : Recipe
    words : sequence of str
        As ``["--components", "5", "--prior-scale=2"]``. A count goes by the name of what is
        counted, or by ``--size``; ``--max-steps`` is for every guide that is fitted by steps,
        ``--batch-size``, ``--held-out`` and ``--parts`` for one that is fitted to shards.

    Returns
    -------
    dict
        Keywords for `Recipe.prepare`.

    Raises
    ------
    InputError
        For an unknown option, with the nearest that there is, or a value that is no number.
    """
    kinds = {} if recipe.options is None else get_type_hints(recipe.options)
    known = {flag_of(name): name for name in kinds}
    known["--max-steps"] = "max_steps"
    if recipe.size_name:
        known |= {f"--{recipe.size_name}": "size", "--size": "size"}
    if any(entry.of_shards is not None for entry in recipe.guides.values()):
        known |= {"--batch-size": "batch_size", "--held-out": "held_out", "--parts": "parts"}
        kinds = {**kinds, "held_out": str}
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if not flag.startswith("--"):
            raise InputError(f"{recipe.name}: got {flag!r}, expected an option, --name value")
        if flag not in known:
            raise InputError(f"{flag}: {_unknown(recipe, flag, list(known))}")
        if not equals:
            if not rest:
                raise InputError(f"{flag}: expected a value after it")
            value = rest.pop(0)
        name = known[flag]
        if name in found:
            raise InputError(f"{flag}: given twice")
        found[name] = _value(flag, value, kinds.get(name, int))
    return found


def _unknown(recipe: Recipe, flag: str, known: list[str]) -> str:
    hint = did_you_mean(flag, [*known, *_COMMON])
    own = [one for one in known if one not in {"--size", "--max-steps"}]
    has = f"it has {', '.join(own)}" if own else "it has no options of its own"
    return f"no such option of {recipe.name}; {has}{hint}"


def _value(flag: str, text: str, kind: Any) -> Any:
    if kind not in {int, float}:
        return text
    try:
        return kind(text)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise InputError(f"{flag}: got {text!r}, expected {expected}") from None


def table_for(
    recipe: Recipe,
    source: str | None,
    outcome: str | None,
    reading: Mapping[str, Any],
    patches: int | None = None,
) -> Table:
    """Read the table that was asked for, its outcome last.

    Parameters
    ----------
    recipe : Recipe
    source : str or None
        A path, or "-"; None for the recipe's own data.
    outcome : str, optional
        The column that the others explain. Default: the last.
    reading : mapping
        columns, exclude, missing, separator, decimal, encoding, header: as for `data.read`.
    patches : int, optional
        Side of the squares that pictures are cut into.

    Raises
    ------
    FileNotFoundError, InputError
        As `data.read`, or if an option is about a table that is not given.
    """
    if outcome and not recipe.has_outcome:
        raise InputError(f"--outcome: {recipe.name} has none; leave it out")
    if patches is not None and source is not None:
        return read_patches(source, patches)
    if source is None:
        given = [name for name in _READ_ONLY if reading.get(name) is not None]
        given += ["patches"] * (patches is not None)
        if given:
            raise InputError(f"{flag_of(given[0])}: it is about --data, which is not given")
        table = load(recipe.data)
        return table.ending_in(outcome) if outcome else table
    columns = reading.get("columns")
    if columns and outcome and outcome not in columns:
        columns = [*columns, outcome]
    table = read(source, **{**reading, "columns": columns, "outcome": outcome})
    if recipe.has_outcome and outcome is None:
        table = table.ending_in(table.schema.columns[-1].name)
    return table
