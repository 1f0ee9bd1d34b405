"""What a program does, as a short text: a program that was changed since its fit is told apart."""

import hashlib
import inspect
import io
import tokenize
from typing import Any

# What may change without a change of meaning.
_IDLE = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
_LAYOUT = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


def source_hash(program: Any) -> str | None:
    """Hash the source of a function, of a class or of a module's: without comments and docstrings.

    What the program calls is not looked at.

    Parameters
    ----------
    program : callable

    Returns
    -------
    str or None
        SHA-256 in hexadecimal digits; None where there is no source, as of what was typed at a
        prompt or is no function or module.
    """
    inner = inspect.unwrap(program)  # of what a handler of Pyro's wraps
    target = inner if inspect.isfunction(inner) or inspect.isclass(inner) else type(inner)
    if target.__module__ in {"builtins", "functools"}:
        return None
    try:
        source = inspect.getsource(target)
        tokens = list(tokenize.generate_tokens(io.StringIO(inspect.cleandoc(source)).readline))
    # What was typed at a prompt; half of a line, as a lambda's may be.
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):
        return None
    kept: list[str] = []
    begins = True  # of a line: a text that is a whole line is a docstring
    skipped = False
    for token, after in zip(tokens, [*tokens[1:], tokens[-1]], strict=True):
        if token.type in _IDLE or (skipped and token.type == tokenize.NEWLINE):
            continue
        skipped = begins and token.type == tokenize.STRING and after.type == tokenize.NEWLINE
        if skipped:
            continue
        begins = token.type in _LAYOUT
        kept.append(tokenize.tok_name[token.type] if begins else token.string)
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()
