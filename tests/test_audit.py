"""The look for known vulnerabilities in .ci/audit.py: what fails, and what only is not checked."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("packaging")
ROOT = Path(__file__).parent.parent
AUDIT = runpy.run_path(str(ROOT / ".ci" / "audit.py"))


def judge(*dependencies: dict[str, Any]) -> Any:
    return AUDIT["judge"](list(dependencies), {"h11", "gunicorn"})


SOUND = {"name": "h11", "version": "0.16.0", "vulns": []}
VULNERABLE = {
    "name": "Gunicorn",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.0"]}],
}
SKIPPED = {"name": "gunicorn", "skip_reason": "Dependency not found on PyPI"}


def test_a_known_vulnerability_fails() -> None:
    lines, fails = judge(SOUND, VULNERABLE)
    assert (lines, fails) == (["VULNERABLE: Gunicorn 1.0: PYSEC-1, fixed by 2.0"], True)


def test_a_vulnerability_of_what_is_only_used_for_the_audit_does_not_count() -> None:
    assert judge({**VULNERABLE, "name": "pip"}) == ([], False)


def test_what_could_not_be_checked_is_said_and_does_not_fail() -> None:
    lines, fails = judge(SOUND, SKIPPED)
    assert not fails
    assert lines == [
        "not checked: gunicorn: Dependency not found on PyPI",
        "no known vulnerability in the 1 packages that were checked",
    ]


def test_without_a_network_nothing_is_checked_and_nothing_fails(tmp_path: Path) -> None:
    """pip-audit ends without a report, and PyPI cannot be asked either."""
    (tmp_path / "pip_audit.py").write_text("raise SystemExit('no connection')\n")
    proxy = "http://127.0.0.1:1"  # nobody listens there
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "audit.py")],
        env={"PYTHONPATH": str(tmp_path), "https_proxy": proxy},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("not checked: no network: ")
    assert done.returncode == 0


def test_all_that_is_required_is_looked_at_with_what_that_requires() -> None:
    names = AUDIT["required"]()
    assert {"gunicorn", "h11", "websockets", "h2", "hpack", "hyperframe"} <= names
    assert "pytest" not in names


def test_a_report_of_pip_audit_decides_the_exit_code(tmp_path: Path) -> None:
    vulnerable = {**VULNERABLE, "name": "gunicorn"}
    for dependency, code in ((vulnerable, 1), (SOUND, 0), (SKIPPED, 0)):
        report = json.dumps({"dependencies": [dependency]})
        (tmp_path / "pip_audit.py").write_text(f"print({report!r})\n")
        done = subprocess.run(
            [sys.executable, str(ROOT / ".ci" / "audit.py")],
            env={"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == code
