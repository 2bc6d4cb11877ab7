"""Code stamps: a digest of the code a stage really uses, blind to comments and docstrings.

The files are found by walking the import statements from an entry module (statically, nothing is run), inside our own
packages only. A stage depends on its stamp instead of on whole folders, so an edited loss reruns exactly the stages
that reach it, and a reworded comment reruns nothing.
"""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("assets", "training", "evaluation", "pipelines")


def _module_file(module: str) -> Path | None:
    """Return the source file of one of our modules, or None for anything else."""
    if module.split(".")[0] not in PACKAGES:
        return None
    base = ROOT.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                line
                for line in node.body
                if not (
                    isinstance(line, ast.Expr)
                    and isinstance(line.value, ast.Constant)
                    and isinstance(line.value.value, str)
                )
            ] or [ast.Pass()]
    return tree


@cache
def _read(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the digest of one file's code and the modules it names in import statements."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            imported.append(node.module)
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
    code = ast.dump(_without_docstrings(tree))
    return hashlib.sha256(code.encode()).hexdigest(), tuple(imported)


def closure(modules: Iterable[str]) -> dict[str, str]:
    """Follow imports from entry modules through our packages.

    Args:
        modules: Dotted names, e.g. ``["training.pretrain", "training.methods.clip"]``.

    Returns:
        Repository-relative file name -> SHA-256 of its code, for every file reached, package ``__init__`` included.
    """
    found: dict[str, str] = {}
    todo = list(modules)
    seen: set[str] = set()
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        path = _module_file(module)
        if path is None:
            continue
        digest, imported = _read(path)
        found[path.relative_to(ROOT).as_posix()] = digest
        todo += imported
        if "." in module:
            todo.append(module.rpartition(".")[0])
    return dict(sorted(found.items()))


def code_digest(*modules: str) -> str:
    """Return 16 hex digits naming the code reached from the entry modules."""
    lines = "\n".join(f"{name} {digest}" for name, digest in closure(modules).items())
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
