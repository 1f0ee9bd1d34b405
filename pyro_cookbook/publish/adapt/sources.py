"""Source put together from the installed `models` and `guides`, as files that stand alone.

Nothing is imported but the empty packages: the text is read, and what a definition needs is found
in its syntax tree.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

_OURS = ("models", "guides")
_WIDTH = 100


@dataclass(frozen=True, order=True)
class Definition:
    """A name at the top level of a module: ``FactorAnalysis`` in ``models.factor_analysis``.

    Attributes
    ----------
    module, name : str
    """

    module: str
    name: str

    @classmethod
    def at(cls, path: str) -> "Definition":
        """Read ``"package.module.name"``."""
        module, _, name = path.rpartition(".")
        return cls(module, name)


@dataclass(frozen=True)
class _Import:
    """``from module import name as bound``; without a name, ``import module as bound``."""

    module: str
    name: str
    bound: str


@dataclass
class File:
    """Definitions that are to stand in one file, and what they need.

    Attributes
    ----------
    definitions : list of Definition
        In an order in which each comes after what it needs.
    imports : set
        Of other packages.
    """

    definitions: list[Definition] = field(default_factory=list)
    imports: set[_Import] = field(default_factory=set)

    def text(self, docstring: str) -> str:
        """Write the file: docstring, imports, definitions."""
        body = ""
        before = "import"
        for one in self.definitions:
            kind = _kind(one)
            # One line break between constants, two blank lines around all else.
            body += "\n" * (1 if {before, kind} <= {"constant", "import"} else 2 if not body else 3)
            body += _module(one.module).segment(one.name)
            before = kind
        return f'"""{docstring}"""\n\n{_block(self.imports)}{body}\n'


def collect(wanted: Iterable[Definition], provided: Mapping[Definition, str] | None = None) -> File:
    """Find all that some definitions need.

    Parameters
    ----------
    wanted : iterable of Definition
    provided : mapping of Definition to str, optional
        What another file of the project has already: its module's name there.

    Returns
    -------
    File
    """
    file, found = File(), set[Definition]()
    for definition in wanted:
        _visit(_resolved(definition), file, found, provided or {})
    return file


def first_sentence(definition: Definition) -> str:
    """Give the first line of a definition's docstring."""
    node = _module(definition.module).statements[definition.name]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    return (ast.get_docstring(node) or "").partition("\n")[0]


def modules(file: File) -> list[str]:
    """Name the modules that a file's definitions come from."""
    return list(dict.fromkeys(definition.module for definition in file.definitions))


def tidied(source: str) -> str:
    """Drop the imports that a file does not use, and sort the others.

    Parameters
    ----------
    source : str
        A docstring, imports and then anything else; imports in a block without comments.
    """
    lines = source.splitlines()
    block = [n for n in ast.parse(source).body if isinstance(n, ast.Import | ast.ImportFrom)]
    start, end = block[0].lineno - 1, int(block[-1].end_lineno or 0)
    imports = used_imports("\n".join(lines[start:end]), "\n".join(lines[end:]))
    return "\n".join([*lines[:start], imports, *lines[end:]]) + "\n"


def used_imports(imports: str, code: str) -> str:
    """Sort those imports that some code uses.

    Parameters
    ----------
    imports, code : str
        Python source.
    """
    used = _names(ast.parse(code))
    nodes = [n for n in ast.parse(imports).body if isinstance(n, ast.Import | ast.ImportFrom)]
    kept = {one for node in nodes for one in _imported(node) if one.bound in used}
    return _block(kept).rstrip("\n")


def _visit(
    definition: Definition,
    file: File,
    found: set[Definition],
    provided: Mapping[Definition, str],
) -> None:
    """Add a definition after all that it needs."""
    if definition in found:
        return
    found.add(definition)
    if definition in provided:
        file.imports.add(_Import(provided[definition], definition.name, definition.name))
        return
    module = _module(definition.module)
    for name in _names(module.statements[definition.name]):
        if name in module.imports:
            one = module.imports[name]
            if one.module.split(".")[0] in _OURS:
                _visit(_resolved(Definition(one.module, one.name)), file, found, provided)
            else:
                file.imports.add(one)
        elif name in module.statements:
            _visit(Definition(definition.module, name), file, found, provided)
    file.definitions.append(definition)
    for name in module.registered_for(definition.name):
        _visit(Definition(definition.module, name), file, found, provided)


def _resolved(definition: Definition) -> Definition:
    """Follow a name through the modules that only pass it on."""
    module = _module(definition.module)
    if definition.name in module.statements:
        return definition
    one = module.imports[definition.name]
    return _resolved(Definition(one.module, one.name))


@dataclass(frozen=True)
class _Module:
    """The text of a module, and where its names are."""

    lines: tuple[str, ...]
    statements: dict[str, ast.stmt]
    imports: dict[str, _Import]

    def segment(self, name: str) -> str:
        """Cut out a statement, with the comment right above it."""
        node = self.statements[name]
        decorators = getattr(node, "decorator_list", [])
        start = min([node.lineno, *(d.lineno for d in decorators)]) - 1
        while start and self.lines[start - 1].startswith("#"):
            start -= 1
        return "\n".join(self.lines[start : node.end_lineno])

    def registered_for(self, name: str) -> Iterator[str]:
        """Name what is registered for a definition by a decorator, and used nowhere by name."""
        for other, node in self.statements.items():
            for decorator in getattr(node, "decorator_list", []):
                if isinstance(decorator, ast.Call) and name in _names(decorator):
                    yield other


@cache
def _module(name: str) -> _Module:
    package, _, stem = name.partition(".")
    text = resources.files(package).joinpath(f"{stem}.py").read_text("utf-8")
    statements: dict[str, ast.stmt] = {}
    imports: dict[str, _Import] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= {one.bound: one for one in _imported(node)}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            statements[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            statements |= {t.id: node for t in targets if isinstance(t, ast.Name)}
    return _Module(tuple(text.splitlines()), statements, imports)


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[_Import]:
    for alias in node.names:
        bound = alias.asname or alias.name
        if isinstance(node, ast.Import):
            yield _Import(alias.name, "", bound)
        else:
            yield _Import(node.module or "", alias.name, bound)


def _names(node: ast.AST) -> set[str]:
    """Collect the names in a statement."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _kind(definition: Definition) -> str:
    node = _module(definition.module).statements[definition.name]
    return "constant" if isinstance(node, ast.Assign | ast.AnnAssign) else "block"


def _block(imports: Iterable[_Import]) -> str:
    """Write imports as isort does: standard library, others', the project's own."""
    sections: dict[int, list[_Import]] = {}
    for one in imports:
        top = one.module.split(".")[0]
        rank = 0 if top in sys.stdlib_module_names else 2 if top in {"model", "guide", "fit"} else 1
        sections.setdefault(rank, []).append(one)
    return "\n".join(_section(sections[rank]) for rank in sorted(sections))


def _section(imports: list[_Import]) -> str:
    whole = sorted((i for i in imports if not i.name), key=lambda i: i.module)
    lines = [
        f"import {i.module}" + (f" as {i.bound}" if i.bound != i.module else "") for i in whole
    ]
    parts: dict[str, list[str]] = {}
    for one in imports:
        if one.name:
            renamed = f" as {one.bound}" if one.bound != one.name else ""
            parts.setdefault(one.module, []).append(one.name + renamed)
    for module in sorted(parts, key=str.lower):
        names = sorted(parts[module], key=_by_type)
        line = f"from {module} import {', '.join(names)}"
        if len(line) > _WIDTH:
            line = f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _by_type(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest."""
    bare = name.lstrip("_")
    return 0 if bare.isupper() else 1 if bare[0].isupper() else 2, name
