"""The text of a formula: can it be read, which columns does it name, and which functions."""

from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from pyro_cookbook.data import InputError, did_you_mean, listed
from pyro_cookbook.data.errors import one_line


def _functions() -> dict[str, Any]:
    """Functions of numbers, by their own names and as NumPy's; nothing that reads or writes."""
    pointwise = {
        name: one
        for name in dir(np)
        if isinstance(one := getattr(np, name), np.ufunc) or name in {"where", "clip", "round"}
    }
    plain = ("abs", "exp", "expm1", "log", "log1p", "log2", "log10", "sqrt")
    return {"np": SimpleNamespace(**pointwise)} | {name: pointwise[name] for name in plain}


FUNCTIONS = _functions()


def check_syntax(formula: str) -> None:
    """Read a formula from its first character to its last.

    Raises
    ------
    InputError
        Saying at which character reading stopped, and why.
    """
    from formulae.parser import ParseError, Parser
    from formulae.scanner import ScanError, Scanner

    if not isinstance(formula, str) or not formula.strip():
        raise InputError(f"formula: got {formula!r}, expected one as 'y ~ x + z + (1 | group)'")
    scanner = Scanner(formula)
    try:
        tokens = scanner.scan(add_intercept=False)
    except (ScanError, IndexError) as error:  # the latter: a back quote that is not closed
        why = str(error) if isinstance(error, ScanError) else "a ` that is not closed"
        raise _unreadable(formula, scanner.start, why) from error
    if not any(token.kind == "TILDE" for token in tokens):
        raise InputError(
            f"formula: got {formula!r}, which has no '~'; expected outcome ~ predictors"
        )
    parser = Parser(tokens)
    try:
        parser.parse()
    except (ParseError, IndexError) as error:
        place = _place(formula, tokens, parser.current)
        raise _unreadable(formula, place, str(error) or "it ends too early") from error
    if not parser.at_end():  # formulae itself leaves out what follows
        place = _place(formula, tokens, parser.current)
        raise _unreadable(formula, place, "an operator is expected before it")


def _place(formula: str, tokens: Any, index: int) -> int:
    """Find the character at which a token begins."""
    place = 0
    for token in tokens[:index]:
        place = formula.index(token.lexeme, place) + len(token.lexeme)
    rest = formula[place:]
    return place + len(rest) - len(rest.lstrip())


def _unreadable(formula: str, place: int, why: str) -> InputError:
    why = why.replace("Don't know how to parse ''", "something is missing").rstrip(".")
    rest = formula[place:]
    where = f"at character {place + 1}, {rest!r}" if rest else f"after {formula.rstrip()!r}"
    return InputError(f"formula: it cannot be read {where}: {why[:1].lower()}{why[1:]}")


def described(formula: str) -> Any:
    """Give formulae's description of a formula's terms, not evaluated yet.

    Raises
    ------
    InputError
        If the terms make no sense together, or there is no outcome.
    """
    from formulae import model_description

    check_syntax(formula)
    try:
        found = model_description(formula)
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        # formulae meets terms that do not go together in as many ways
        raise InputError(f"formula: {formula!r} makes no sense: {one_line(error)}") from error
    if found.response is None:
        raise InputError(f"formula: {formula!r} has no outcome before '~'")
    return found


def columns_of(formula: str) -> list[str]:
    """Name the columns of a table that a formula uses, its outcome among them.

    Raises
    ------
    InputError
        If it cannot be read.

    Examples
    --------
    >>> columns_of("y ~ poly(x, 2) + (1 | village)")
    ['village', 'x', 'y']
    """
    # formulae lists the numbers in a call as ''.
    return sorted({str(name) for name in described(formula).var_names} - {""})


def check_columns(formula: str, names: Collection[str], columns: Collection[str]) -> None:
    """Refuse a formula that names a column which is not there.

    Raises
    ------
    InputError
        With the column that is nearest in name, and those there are.
    """
    for name in sorted(set(names) - set(columns)):
        hint = did_you_mean(name, columns)
        raise InputError(f"formula: no column {name!r}; there are {listed([*columns])}{hint}")


def evaluated(formula: str, frame: pd.DataFrame) -> Any:
    """Give formulae's matrices of a formula on a table.

    Raises
    ------
    InputError
        If a function is unknown, or does not take what it is given.
    """
    from formulae import design_matrices
    from formulae.environment import Environment

    try:
        with np.errstate(all="ignore"):  # what is not finite is named afterwards, with its row
            return design_matrices(formula, frame, na_action="pass", env=Environment([FUNCTIONS]))
    except KeyError as error:
        raise InputError(f"formula: no function {error.args[0]!r}; there are {_known()}") from error
    except AttributeError as error:
        name = getattr(error, "name", None)
        raise InputError(
            f"formula: no function 'np.{name}' of numbers; there are {_known()}"
        ) from error
    except (ValueError, TypeError, NotImplementedError, IndexError) as error:  # of a transform
        raise InputError(f"formula: {formula!r}: {one_line(error)}") from error


def _known() -> str:
    from formulae.transforms import TRANSFORMS

    names = [*TRANSFORMS, *(name for name in FUNCTIONS if name != "np")]
    return f"{', '.join(names)}, and np's functions of numbers, as np.sin"


def nearest(argument: str, got: Any, there: Mapping[str, Any] | Collection[str]) -> InputError:
    """Make the error for a word that is none of those there are."""
    hint = did_you_mean(str(got), there)
    return InputError(f"{argument}: got {got!r}, expected one of {', '.join(there)}{hint}")
