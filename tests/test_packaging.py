"""What an installer and the tools beside it rely on: the metadata, the entry point, the types."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from gunicorn.util import load_class

import gunicorn_asgi

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DISTRIBUTION = metadata.distribution("gunicorn-asgi")


@pytest.mark.parametrize(
    "name", ["gunicorn_asgi.Worker", "egg:gunicorn_asgi#main", "egg:gunicorn-asgi#main"]
)
def test_gunicorn_finds_the_worker(name: str) -> None:
    assert load_class(name) is gunicorn_asgi.Worker


def test_the_version_is_one() -> None:
    assert DISTRIBUTION.version == gunicorn_asgi.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[?([0-9][^\] ]*)", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == gunicorn_asgi.__version__


def test_types_are_shipped() -> None:
    files = {str(file) for file in DISTRIBUTION.files or ()}
    if "gunicorn_asgi/__init__.py" not in files:
        pytest.skip("installed as editable: there is no list of what a wheel has")
    assert "gunicorn_asgi/py.typed" in files
    shipped = {file for file in files if file.startswith("gunicorn_asgi/") and file.endswith(".py")}
    assert shipped == {
        str(file.relative_to(ROOT)) for file in (ROOT / "gunicorn_asgi").rglob("*.py")
    }
    assert not {file for file in files if file.startswith(("tests/", "examples/", "docs/"))}


def test_each_name_of_the_package_is_listed_before_it_is_imported() -> None:
    script = "import gunicorn_asgi; print(set(gunicorn_asgi.__all__) - set(dir(gunicorn_asgi)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_a_type_checker_finds_no_name_that_the_package_does_not_have() -> None:
    """``__getattr__`` of a module gives it every name, in the eyes of a type checker."""
    tree = ast.parse(Path(gunicorn_asgi.__file__).read_text())
    seen = [
        ast.unparse(node) for node in tree.body if "TYPE_CHECKING" not in ast.unparse(node)[:40]
    ]
    assert "def __dir__" in "\n".join(seen)
    assert "__getattr__" not in "\n".join(seen)
    assert callable(gunicorn_asgi.__getattr__)  # type: ignore[attr-defined] # the rule of this test


def test_importing_starts_nothing_and_loads_no_parser() -> None:
    """Gunicorn imports the class in its master: no loop, no thread, and nothing that the configuration may not want.

    (websockets is for every configuration, and what the master has loaded its workers share.)
    """
    script = """
import sys, threading
import gunicorn_asgi
assert threading.active_count() == 1, threading.enumerate()
unused = {"httptools", "h11", "uvloop", "h2", "hpack", "gunicorn_asgi.observe.json_formatter"}
print(*sorted(unused & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def lower_bounds(requirements: list[str]) -> dict[str, tuple[int, ...]]:
    """``{"h11": (0, 14)}`` for ``["h11>=0.14"]``, whatever marker stands behind."""
    found = (re.match(r"([\w-]+)[><=]=([0-9.]+)", requirement) for requirement in requirements)
    # 0.14 and 0.14.0 are one version.
    return {
        match[1]: tuple(map(int, re.sub(r"(\.0)+$", "", match[2]).split(".")))
        for match in found
        if match
    }


def test_the_oldest_versions_are_those_that_are_tested() -> None:
    required = [
        *PYPROJECT["project"]["dependencies"],
        *PYPROJECT["project"]["optional-dependencies"]["http2"],
        *PYPROJECT["project"]["optional-dependencies"]["trio"],
    ]
    declared = lower_bounds(required)
    pinned = lower_bounds((ROOT / ".ci" / "oldest.txt").read_text().splitlines())
    assert len(declared) == len(required)
    assert pinned == declared
