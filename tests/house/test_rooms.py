"""How the rooms of the house are kept: their names, their size, their doors and what they say of themselves."""

import ast
from pathlib import Path

import pytest

ROOMS = Path(__file__).parents[2] / "src" / "lycia"
MODULES = sorted(ROOMS.rglob("*.py"))
PACKAGES = [path for path in MODULES if path.stem == "__init__"]
PURE = {"core", "algorithms", "aggregators", "privacy", "compression", "selection"}
PURE_MODULES = [path for path in MODULES if path.relative_to(ROOMS).with_suffix("").parts[0] in PURE]
NO_ROOM_YET = {"utils", "common", "helpers", "base", "misc", "manager"}
LONGEST_MODULE = 600


def name_of(module: Path) -> str:
    return module.relative_to(ROOMS).as_posix()


def test_the_house_was_found():
    assert {"errors.py", "core/__init__.py"} <= {name_of(module) for module in MODULES}


def test_no_module_or_package_has_a_name_that_says_nothing():
    named = [path.relative_to(ROOMS) for path in MODULES if NO_ROOM_YET & {*path.relative_to(ROOMS).parts, path.stem}]
    assert named == [], "such a name says that the thing has no room yet"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_is_short_enough_to_hold_one_concept(module: Path):
    lines = len(module.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_MODULE, "look for the second concept in it"


@pytest.mark.parametrize("package", PACKAGES, ids=name_of)
def test_a_package_only_hands_names_on(package: Path):
    does = [
        f"line {statement.lineno}: {ast.unparse(statement)}"
        for statement in tree_of(package).body
        if not (is_docstring(statement) or is_import(statement) or is_list_of_names(statement))
    ]
    assert does == [], "an __init__.py holds a docstring, imports and __all__, and nothing else"


@pytest.mark.parametrize("code", ["x = 1", "def f(): ...", "if True:\n    import os", "import os\nos.getcwd()"])
def test_a_package_that_does_something_would_be_found(tmp_path: Path, code: str):
    package = tmp_path / "__init__.py"
    package.write_text(f'"""A room."""\n{code}\n', encoding="utf-8")
    with pytest.raises(AssertionError):
        test_a_package_only_hands_names_on(package)


@pytest.mark.parametrize("module", PURE_MODULES, ids=name_of)
def test_what_the_core_and_the_parts_offer_is_described(module: Path):
    silent = [f"line {thing.lineno}: {thing.name}" for thing in public_things(module) if not ast.get_docstring(thing)]
    assert silent == [], "a public function or class says first what it returns or does"


def public_things(module: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    things = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [thing for thing in tree_of(module).body if isinstance(thing, things) and not thing.name.startswith("_")]


def tree_of(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def is_import(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
        return all(map(is_import, (*statement.body, *statement.orelse)))
    return isinstance(statement, ast.Import | ast.ImportFrom)


def is_list_of_names(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == ["__all__"]
