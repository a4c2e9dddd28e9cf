"""`processes.py`: no test is lost, and no failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONFTEST = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
from processes import Processes

def pytest_configure(config):
    config.pluginmanager.register(Processes(3))
"""
TESTS = """
import os
from pathlib import Path
import pytest

NAMES = Path(__file__).parent / "names"

@pytest.fixture(scope="module", autouse=True)
def module():
    yield
    with NAMES.open("a") as file:
        file.write("end\\n")

@pytest.mark.parametrize("number", range(200))
def test_passes(number, tmp_path):
    with NAMES.open("a") as file:
        file.write(f"{number}\\n")
    assert not list(tmp_path.iterdir())

def test_skips():
    pytest.skip("no reason")
"""
FAILING = """
def test_fails():
    print("what it has printed")
    assert not "it"

def test_leaves(request):
    request.addfinalizer(lambda: 1 / 0)
"""
CRASHING = """
def test_crashes():
    os._exit(0)
"""


def run(directory: Path, tests: str, *arguments: str) -> tuple[int, str]:
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(directory)]
    command += ["-p", "no:hypothesispytest", "--basetemp", str(directory / "temporary")]
    done = subprocess.run(
        [*command, *arguments, str(directory)], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def test_each_test_runs_once_and_failures_and_output_are_told(tmp_path: Path) -> None:
    code, output = run(tmp_path, TESTS + FAILING)
    assert code == 1
    assert "1 failed, 201 passed, 1 skipped, 1 error" in output
    assert "what it has printed" in output
    assert "ZeroDivisionError" in output
    names = (tmp_path / "names").read_text().split()
    numbers = [int(name) for name in names if name != "end"]
    assert sorted(numbers) == list(range(200))
    assert 1 <= names.count("end") <= 3, "once in each process that ran tests of the module"
    # The next run knows which have failed.
    code, output = run(tmp_path, TESTS + FAILING, "--last-failed")
    assert "1 failed, 1 passed" in output
    assert "1 error" in output


def test_a_process_that_ends_in_a_test_fails_the_run(tmp_path: Path) -> None:
    code, output = run(tmp_path, TESTS + CRASHING)
    assert code == 3, output
    assert "a process has ended with 0, in test_it.py::test_crashes" in output
