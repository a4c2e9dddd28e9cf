"""A Gunicorn with apps/deploying.py, whose releases wait at a gate that the test opens and closes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from process import Gunicorn, is_alive, poll

OLD, NEW, NEWER = "1", "2", "3"
HANDS_OVER = "Handing over: serving until a newer worker serves in this worker's place"


class Gated(Gunicorn):
    """The first release is OLD. `gate_at`: what waits at the gate, ``import`` or ``startup``."""

    def __init__(
        self, directory: Path, app: str = "deploying:app", *, gate_at: str = "import", **given: Any
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.gate = directory / "gate"
        self.release_file = directory / "release"
        self.gate.touch()
        self.release_file.write_text(OLD)
        given["env"] = {"TEST_GATE": str(directory), "TEST_GATE_AT": gate_at}
        super().__init__(directory, app, **given)

    def deploy(self, release: str) -> None:
        """Import `release` from now on, and keep it from serving until the gate is opened."""
        self.gate.unlink(missing_ok=True)
        self.release_file.write_text(release)

    def open_gate(self) -> None:
        self.gate.touch()

    def ask(self, client: httpx.Client | None = None, path: str = "/release") -> tuple[str, int]:
        """Return the release that answers, and its pid; on a new connection unless `client` has one."""
        response = client.get(path) if client else self.get(path)
        assert response.status_code == 200
        release, pid = response.text.split()
        return release, int(pid)

    def wait_until_replaced(self, old: list[int]) -> None:
        """Wait until none of the `old` workers is left."""
        poll(lambda: not any(map(is_alive, old)), f"the end of {old}")
