"""The house rules that a program can check; CONTRIBUTING.md says why they exist. Prints the worst five of each size."""

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("assets", "training", "evaluation", "pipelines")
MOST_FILE_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 400, 60, 8
MOST_FILE_BYTES = 2 << 20
DRAWERS = {"utils", "util", "helpers", "helper", "misc", "common", "tools"}
# names that hold the key of a table: comparing one with a literal is dispatch that belongs in the table
TABLE_KEY = re.compile(r"\b(method|source|evaluator|recipe)(\.kind|_name|\['kind'\])?$")
# written in two halves, so that this file does not match itself
MACHINE_PATH = re.compile(r"(^|[^A-Za-z0-9_.])/(wo" r"rk|ro" r"ot)/\w")
REGISTRY_HOST = re.compile(r"https?://(py" r"pi|files|registry|proxy|deb|security)\.")
SECRET = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE " r"KEY|(secret_access_key|secretKey)\s*[=:]\s*\w{16}")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def repository_files() -> list[Path]:
    """Everything git tracks or would add, as far as it exists."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in sorted(set(names)) if name and (ROOT / name).is_file()]


@cache
def text_of(path: Path) -> str:
    """The file's text, or nothing for binary files."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_files(*folders: str) -> list[Path]:
    return [path for path in repository_files() if path.suffix == ".py" and name_of(path).split("/")[0] in folders]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path), str(path))


def functions() -> Iterator[tuple[str, Function]]:
    for path in code_files(*PACKAGES):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, Function):
                yield f"{name_of(path)}:{node.lineno} {node.name}", node


def length(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def parameters(node: Function) -> int:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in every)


@pytest.fixture(scope="module")
def sizes() -> dict[str, list[tuple[int, str]]]:
    return {
        "lines of a file": [(text_of(path).count("\n"), name_of(path)) for path in code_files(*PACKAGES)],
        "lines of a function": [(length(node), place) for place, node in functions()],
        "parameters": [(parameters(node), place) for place, node in functions()],
    }


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("lines of a file", MOST_FILE_LINES),
        ("lines of a function", MOST_FUNCTION_LINES),
        ("parameters", MOST_PARAMETERS),
    ],
)
def test_files_and_functions_stay_small(sizes, capsys, what, most):
    worst = sorted(sizes[what], reverse=True)[:5]
    with capsys.disabled():
        print(f"\n{what}, at most {most}: " + "; ".join(f"{size} {place}" for size, place in worst))
    assert [(size, place) for size, place in sizes[what] if size > most] == []


def undocumented(path: Path) -> Iterator[str]:
    tree = tree_of(path)
    if tree.body and not ast.get_docstring(tree):
        yield f"{name_of(path)}:1 the module"
    public = [node for node in tree.body if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")]
    for node in public:
        if not ast.get_docstring(node):
            yield f"{name_of(path)}:{node.lineno} {node.name}"
        for method in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(method, Function) and not method.name.startswith("_") and not ast.get_docstring(method):
                yield f"{name_of(path)}:{method.lineno} {node.name}.{method.name}"


def test_every_public_name_has_a_docstring():
    assert [line for path in code_files(*PACKAGES) for line in undocumented(path)] == []


def compares_a_table_key(node: ast.AST) -> bool:
    if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Eq | ast.NotEq | ast.In | ast.NotIn):
        return False
    sides = [node.left, *node.comparators]
    keys = [side for side in sides if TABLE_KEY.search(ast.unparse(side))]
    literals = [side for side in sides if isinstance(side, ast.Constant) and isinstance(side.value, str)]
    return bool(keys) and bool(literals or any(isinstance(side, ast.Tuple | ast.List | ast.Set) for side in sides))


def test_nothing_branches_on_the_name_of_a_method_source_or_evaluator():
    found = [
        f"{name_of(path)}:{node.lineno} {ast.unparse(node)}"
        for path in code_files(*PACKAGES)
        for node in ast.walk(tree_of(path))
        if compares_a_table_key(node)
    ]
    assert found == []


def test_no_file_is_a_drawer():
    every = [path for path in repository_files() if path.suffix == ".py"]
    assert [name_of(path) for path in every if DRAWERS & {path.stem, path.parent.name}] == []


def test_code_is_ascii():
    found = [
        f"{name_of(path)}:{number}"
        for path in repository_files()
        if (path.suffix in (".py", ".toml", ".yaml") or path.name == "Makefile") and "tests" not in path.parts
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if not line.isascii()
    ]
    assert found == []


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(("package", "rank"), [(package, rank) for rank, package in enumerate(PACKAGES)])
def test_packages_import_to_their_left_and_only_pipelines_knows_dagster_and_dvc(package, rank):
    forbidden = set(PACKAGES[rank + 1 :]) | (set() if package == "pipelines" else {"dagster", "dvc"})
    assert [
        (name_of(path), imported(path) & forbidden) for path in code_files(package) if imported(path) & forbidden
    ] == []


def test_nothing_is_pickled_or_loaded_unsafely():
    # read as plain text: a docstring may mention pickle, an import or a call may not be there
    call = re.compile(
        r"^\s*(import|from) (pickle|cloudpickle|dill|joblib)\b|weights_only\s*=\s*Fal" r"se", re.MULTILINE
    )
    assert [name_of(path) for path in code_files(*PACKAGES, "benchmarks") if call.search(text_of(path))] == []


@pytest.mark.parametrize(
    "pattern", [MACHINE_PATH, REGISTRY_HOST, SECRET], ids=["machine path", "registry host", "secret"]
)
def test_no_file_names_this_machine_a_registry_or_a_secret(pattern):
    found = [
        f"{name_of(path)}:{number} {line.strip()[:80]}"
        for path in repository_files()
        if not name_of(path).startswith("tests/fixtures/")
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_no_file_is_large():
    assert [name_of(path) for path in repository_files() if path.stat().st_size > MOST_FILE_BYTES] == []


def table_entries() -> list[tuple[str, str, str]]:
    """(table, key, dotted name) of every table in the packages' ``__init__`` files."""
    found: list[tuple[str, str, str]] = []
    for path in code_files(*PACKAGES):
        if path.name != "__init__.py":
            continue
        for node in tree_of(path).body:
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            for key, dotted in zip(value.keys, value.values, strict=True) if isinstance(value, ast.Dict) else []:
                if isinstance(key, ast.Constant) and isinstance(dotted, ast.Constant) and ":" in str(dotted.value):
                    found.append((f"{name_of(path)}", str(key.value), str(dotted.value)))
    return found


def test_there_are_tables():
    assert {table.split("/")[0] for table, _, _ in table_entries()} >= {"assets", "training", "evaluation"}


@pytest.mark.parametrize(("table", "key", "dotted"), table_entries())
def test_every_entry_of_a_table_resolves_to_a_class_with_its_config(table, key, dotted):
    module, _, attribute = dotted.partition(":")
    entry = getattr(importlib.import_module(module), attribute)
    assert isinstance(entry, type), f"{table}: {key} is not a class"
    # the configs of sources form a union of their own in assets.dataset
    assert table.startswith("assets/") or hasattr(entry, "Config"), f"{table}: {key} carries no Config"


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-img2dataset.txt"])
def test_every_pinned_version_stands_without_an_address(name):
    lines = text_of(ROOT / name).splitlines()
    pin = re.compile(r"[\w.\[\]-]+==[\w.!+]+( ; .+)?")
    assert [line for line in lines if line and not line.startswith("#") and not pin.fullmatch(line)] == []
