"""What README.md shows runs, prints what it says, and names commands and files that exist."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, get_type_hints

import pytest
import typer

from pyro_cookbook import catalogue
from pyro_cookbook.cli import app
from pyro_cookbook.publish.notebook_diff import text_difference

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    code: str
    output: str | None


def examples(text: str) -> list[Example]:
    """Return the Python blocks, each with the text block of the same section that follows it."""
    fences = list(FENCE.finditer(text))
    found = []
    for fence, after in zip_longest(fences, fences[1:]):
        if fence[1] == "python":
            says = after and after[1] == "text" and "\n#" not in text[fence.end() : after.start()]
            found.append(Example(fence[2], after[2] if after and says else None))
    return found


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in the text: lines of shell blocks, and inline code."""
    shell = [
        fence[2] for fence in FENCE.finditer(text) if fence[1] in {"", "bash", "console", "sh"}
    ]
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    for line in [*"\n".join(shell).splitlines(), *inline]:
        if re.match(r"(\$ )?(\S*/)?(make|pyro-cookbook) ", line):
            yield shlex.split(line.removeprefix("$ "), comments=True)


# What `fit` takes for one recipe or another.
OF_RECIPES = {
    flag
    for one in catalogue.RECIPES
    for flag in (
        f"--{one.size_name}",
        *(catalogue.flag_of(option) for option in get_type_hints(one.options or object)),
    )
}


def unknown(text: str) -> list[str]:
    """Return the make targets, commands and options in the text that do not exist."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    known = typer.main.get_command(app).commands
    found = []
    for program, *words in commands(text):
        if program == "make":
            found += [f"make {word}" for word in words if "=" not in word and word not in targets]
            continue
        name = next((word for word in words if word[0] != "-"), None)
        options = {"--help"}
        if name:
            if name not in known:
                found.append(f"pyro-cookbook {name}")
                continue
            options |= {option for param in known[name].params for option in param.opts}
        used = {word.split("=")[0] for word in words if word[0] == "-"}
        options |= OF_RECIPES if name == "fit" else set()
        found += [f"pyro-cookbook {name} {option}" for option in sorted(used - options)]
    return found


def run(code: str, folder: Path) -> str:
    """Run the code in a process of its own and return what it prints; a warning is an error."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"MPLBACKEND": "Agg", "TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def test_readme_has_an_example():
    assert examples(README)


@pytest.mark.parametrize("example", examples(README), ids=lambda example: example.code[:30])
def test_example_runs_and_prints_what_it_says(example, tmp_path):
    printed = run(example.code, tmp_path)
    if example.output is not None:
        assert text_difference(example.output, printed) is None


def test_commands_exist():
    assert unknown(README) == []


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)", README)
    assert [link for link in links if ":" not in link and not (ROOT / link).exists()] == []


SAMPLE = """# A readme

```python
print(3.14)
```

It prints

```text
3.15
```

```python
1 / 0
```

## More

```text
a picture
```

Call `make fly`, `make WORKERS=1 test` or `pyro-cookbook fly`, not `makeshift`.

```bash
.venv/bin/pyro-cookbook --help   # all commands
pyro-cookbook doctor --fly=1
```
"""


def test_examples_are_found_with_their_output():
    assert examples(SAMPLE) == [("print(3.14)\n", "3.15\n"), ("1 / 0\n", None)]


def test_an_unknown_command_is_found():
    assert unknown(SAMPLE) == ["pyro-cookbook doctor --fly", "make fly", "pyro-cookbook fly"]


def test_an_example_that_fails_or_warns_is_found(tmp_path):
    assert run("print(3.14)", tmp_path) == "3.14\n"
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run("1 / 0", tmp_path)
    with pytest.raises(AssertionError, match="Warning"):
        run("import warnings; warnings.warn('hm')", tmp_path)
