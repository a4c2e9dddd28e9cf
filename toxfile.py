"""What tox.ini cannot say. tox loads this file itself."""

from __future__ import annotations

from tox.config.sets import ConfigSet
from tox.plugin import impl
from tox.session.state import State


@impl
def tox_add_core_config(core_conf: ConfigSet, state: State) -> None:
    """Let an environment fail that is asked for by its name and has no interpreter.

    Plain `tox` skips it, with a line that says so. ``--skip-missing-interpreters`` still decides.
    """
    options = state.conf.options
    if getattr(options, "env", None) and options.skip_missing_interpreters == "config":
        options.skip_missing_interpreters = "false"
