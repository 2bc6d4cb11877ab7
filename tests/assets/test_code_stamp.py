import pytest

from assets import code_stamp


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package ``assets`` of three modules: one imports two, three stands alone."""
    files = {
        "__init__": "",
        "one": '"""Doc."""\nfrom assets.two import f\n\ndef g():\n    """Doc."""\n    return f()\n',
        "two": "def f():\n    return 1\n",
        "three": "x = 1\n",
    }
    (tmp_path / "assets").mkdir()
    for name, text in files.items():
        (tmp_path / "assets" / f"{name}.py").write_text(text)
    monkeypatch.setattr(code_stamp, "ROOT", tmp_path)

    def digest_after(name=None, text=None):
        if name:
            (tmp_path / "assets" / f"{name}.py").write_text(text)
        code_stamp._read.cache_clear()
        return code_stamp.code_digest("assets.one")

    yield digest_after
    code_stamp._read.cache_clear()


def test_the_closure_follows_imports_and_nothing_else(project):
    project()
    assert list(code_stamp.closure(["assets.one"])) == ["assets/__init__.py", "assets/one.py", "assets/two.py"]


def test_an_edit_behind_an_import_changes_the_digest(project):
    assert project() != project("two", "def f():\n    return 2\n")


def test_comments_docstrings_and_strangers_do_not(project):
    before = project()
    assert before == project("two", '# why\ndef f():\n    """Other words."""\n    return 1  # one\n')
    assert before == project("three", "x = 2\n")
