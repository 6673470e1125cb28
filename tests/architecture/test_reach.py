"""The product reaches or exports every public function and class of `stats` and `bandits`."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LIBRARIES = ("stats", "bandits")


class Module(NamedTuple):
    """Definitions of a module, and its names as (module, name), or (module, "") for a module."""

    definitions: dict[str, ast.stmt]
    meanings: dict[str, tuple[str, str]]
    other_code: list[ast.stmt]


def module_of(source: str, library_modules: set[str]) -> Module:
    definitions: dict[str, ast.stmt] = {}
    meanings: dict[str, tuple[str, str]] = {}
    other_code: list[ast.stmt] = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in LIBRARIES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                meaning = (inner, "") if inner in library_modules else (node.module, alias.name)
                meanings[alias.asname or alias.name] = meaning
    for statement in tree.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                definitions[name] = statement
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                definitions[name] = statement
            case _:
                other_code.append(statement)
    return Module(definitions, meanings, other_code)


def uses(node: ast.AST, module_name: str, module: Module) -> Iterator[tuple[str, str]]:
    """Yield the (module, name) pairs that this code refers to."""
    for inner in ast.walk(node):
        match inner:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in module.meanings:
                yield module.meanings[name][0], attribute
            case ast.Name(id=name) if name in module.definitions:
                yield module_name, name
        if isinstance(inner, ast.Name) and inner.id in module.meanings:
            yield module.meanings[inner.id]


def unreached(root: Path) -> list[str]:
    """Return public functions and classes that neither `app` nor an `__init__` reaches."""
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for library in LIBRARIES
        for path in sorted((root / library).glob("*.py"))
    }
    names = set(paths)
    modules = {name: module_of(path.read_text(), names) for name, path in paths.items()}
    waiting: list[tuple[str, str]] = []
    for path in sorted((root / "app").rglob("*.py")):
        product = module_of(path.read_text(), names)
        waiting += [use for node in ast.parse(path.read_text()).body for use in uses(node, "", product)]
    for library in LIBRARIES:
        waiting += modules[f"{library}.__init__"].meanings.values()
    for name, module in modules.items():
        waiting += [use for node in module.other_code for use in uses(node, name, module)]
    reached: set[tuple[str, str]] = set()
    while waiting:
        module_name, name = waiting.pop()
        if (module_name, name) in reached or name not in modules.get(module_name, EMPTY).definitions:
            continue
        reached.add((module_name, name))
        module = modules[module_name]
        waiting += uses(module.definitions[name], module_name, module)
    return [
        f"{module_name}.{name}"
        for module_name, module in modules.items()
        for name, node in module.definitions.items()
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not name.startswith("_")
        and (module_name, name) not in reached
    ]


EMPTY = Module({}, {}, [])


def test_every_public_function_is_reached_or_exported():
    assert unreached(ROOT) == []


def test_a_function_that_only_tests_call_is_found(tmp_path):
    sources = {
        "stats/__init__.py": "from stats.sums import exported\n",
        "stats/sums.py": (
            "def exported(): return _private()\n"
            "def _private(): return helped()\n"
            "def helped(): return 1\n"
            "def used(): return 2\n"
            "def forgotten(): return helped()\n"
        ),
        "bandits/__init__.py": "",
        "app/__init__.py": "from stats import sums\nresult = sums.used()\n",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    assert unreached(tmp_path) == ["stats.sums.forgotten"]
