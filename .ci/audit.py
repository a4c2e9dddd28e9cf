"""Look for known vulnerabilities of what this package installs, by pip-audit.

Fails if there is one. Passes, and says "not checked", where PyPI cannot be asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "gunicorn-asgi"
EXTRAS = ("http2",)
SERVICE = "https://pypi.org/pypi/gunicorn/json"
SECONDS = 300


def required() -> set[str]:
    """Return the names of all packages that an installation of this one has."""
    found: set[str] = set()
    waiting = [(ROOT, EXTRAS)]
    while waiting:
        name, extras = waiting.pop()
        try:
            requirements = metadata.requires(name) or ()
        except metadata.PackageNotFoundError:  # there is none for this Python
            continue
        for text in requirements:
            requirement = Requirement(text)
            marker = requirement.marker
            is_needed = marker is None or any(
                marker.evaluate({"extra": extra}) for extra in ("", *extras)
            )
            other = canonicalize_name(requirement.name)
            if is_needed and other not in found:
                found.add(other)
                waiting.append((other, tuple(requirement.extras)))
    return found


def judge(dependencies: list[dict[str, Any]], names: set[str]) -> tuple[list[str], bool]:
    """Return lines about pip-audit's `dependencies`, as far as in `names`, and whether to fail."""
    lines: list[str] = []
    vulnerable: list[str] = []
    checked = 0
    for each in dependencies:
        if canonicalize_name(each["name"]) not in names:
            continue
        if "skip_reason" in each:
            lines.append(f"not checked: {each['name']}: {each['skip_reason']}")
            continue
        checked += 1
        for found in each["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version"
            vulnerable.append(
                f"VULNERABLE: {each['name']} {each['version']}: {found['id']}, fixed by {fixed}"
            )
    lines += vulnerable
    if checked and not vulnerable:
        lines.append(f"no known vulnerability in the {checked} packages that were checked")
    return lines, bool(vulnerable)


def run_pip_audit() -> list[dict[str, Any]]:
    """Return what pip-audit says of each installed package.

    Raises ConnectionError if PyPI cannot be asked.
    """
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable"]
    command += ["--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise ConnectionError(f"no answer within {SECONDS} s") from None
    try:
        dependencies: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        try:
            urllib.request.urlopen(SERVICE, timeout=20).close()
        except OSError as error:
            raise ConnectionError(f"no network: {error}") from None
        sys.exit(f"pip-audit has failed:\n{done.stderr}")
    return dependencies


def main() -> int:
    try:
        dependencies = run_pip_audit()
    except ConnectionError as error:
        print(f"not checked: {error}")
        return 0
    lines, fails = judge(dependencies, required())
    print("\n".join(lines))
    return int(fails)


if __name__ == "__main__":
    sys.exit(main())
