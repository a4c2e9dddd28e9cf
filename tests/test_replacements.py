"""A worker that cannot start: one of the first stops the boot, one that is to replace another harms nobody."""

from __future__ import annotations

import os
import re
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from certificates import Pair, encrypt, make_authority
from gunicorn import sock
from gunicorn.config import Config
from process import APPS, NOTE, Gunicorn, is_alive

from gunicorn_asgi.config.settings import Settings
from gunicorn_asgi.config.tls_context import make_context
from gunicorn_asgi.errors import ConfigError

FINE = "pass"
CANNOT_REPLACE = r"\[ERROR\] Worker \d+ could not replace another: those that serve go on serving \(\d+\); the next try is in 1 s$"

IMPORTS = {
    "raises": ("import nosuch", r"^ModuleNotFoundError: No module named 'nosuch'$", 3),
    "raises BaseException": ("raise BaseException('unusual')", "^BaseException: unusual$", 3),
    "is interrupted": ("raise KeyboardInterrupt", r"KeyboardInterrupt\(\)$", 3),
    "exits with 0": ("raise SystemExit(0)", r"SystemExit\(0\)$", 3),
    "exits with 3": ("raise SystemExit(3)", r"SystemExit\(3\)$", 3),
    "exits with a text": ("raise SystemExit('no licence')", r"SystemExit\('no licence'\)$", 3),
    "has no application": ("app = ...", "Failed to find attribute 'app' in 'broken'", 4),
    "has another application": (
        "def app(environ, start_response): ...",
        r"\[ERROR\] .* looks like a WSGI application: ",
        3,
    ),
}


def start(directory: Path, statement: str = FINE, **kwargs: Any) -> Gunicorn:
    path = directory / "import"
    path.write_text(statement)
    return Gunicorn(directory, "broken:app", env={"TEST_IMPORT": str(path)}, **kwargs)


@pytest.mark.gunicorn
@pytest.mark.smoke
@pytest.mark.parametrize("name", IMPORTS)
def test_a_first_worker_whose_import_fails_stops_the_boot(tmp_path: Path, name: str) -> None:
    statement, reason, code = IMPORTS[name]
    with start(tmp_path, statement, wait=False) as server:
        assert server.wait() == code
        assert server.lines(reason) or reason in server.output
        assert len(server.lines("Booting worker")) == 1
        assert not server.lines("could not replace")


@pytest.mark.gunicorn
def test_a_thread_that_a_failing_import_has_left_does_not_hold_the_boot_error_back(
    tmp_path: Path,
) -> None:
    statement = "import threading, time; threading.Thread(target=time.sleep, args=(300,), name='left').start(); import nosuch"
    with start(tmp_path, statement, wait=False) as server:
        assert server.wait() == 3
        assert server.lines(
            r"\[WARNING\] Threads of the application that did not end in time: 1 \(left in "
        )
        assert not server.lines("was sent")


@pytest.mark.gunicorn
def test_a_replacement_whose_import_fails_is_tried_again_and_harms_nobody(tmp_path: Path) -> None:
    with start(tmp_path, workers=2) as server:
        healthy = server.workers()[0]
        for booted, (statement, reason, _) in enumerate(IMPORTS.values(), 3):
            failed = len(server.lines(CANNOT_REPLACE))
            (tmp_path / "import").write_text(statement)
            os.kill(server.workers()[-1], signal.SIGKILL)
            server.wait_for(CANNOT_REPLACE, failed + 1)
            assert server.lines(reason)
            assert server.get("/pid").text == str(healthy)
            (tmp_path / "import").write_text(FINE)
            server.wait_for("on Gunicorn", booted)
        assert is_alive(healthy)
        assert not server.lines("failed to boot|failed to load|exited with code [34]")
        assert server.stop() == 0


@pytest.mark.gunicorn
def test_the_replacement_at_max_requests_may_fail(tmp_path: Path) -> None:
    with start(tmp_path, max_requests=1) as server:
        (tmp_path / "import").write_text("import nosuch")
        server.get("/hello")
        server.wait_for(CANNOT_REPLACE)
        (tmp_path / "import").write_text(FINE)
        server.wait_for("on Gunicorn", 2)
        assert server.get("/hello").text == "hello\n"
        assert server.stop() == 0


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "option": (
        {"raw_env": ["GUNICORN_ASGI_HTPP=h11"]},
        r"\[ERROR\] Unknown option GUNICORN_ASGI_HTPP in the environment",
    ),
    "setting": ({"threads": 2}, r"\[ERROR\] Invalid value for setting threads: 2 must be 1"),
    "certificate": (
        {"certfile": "/nosuch.pem"},
        r"\[ERROR\] Invalid value for setting certfile: '/nosuch\.pem' cannot be read",
    ),
    "hook": ({}, "^ValueError: of the hook$"),
}


@pytest.mark.gunicorn
@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_a_hup_to_settings_that_cannot_work_does_not_end_the_master(
    tmp_path: Path, name: str
) -> None:
    settings, reason = BAD_SETTINGS[name]
    flag = tmp_path / "flag"
    config = f"""
def post_worker_init(worker):
    if {str(flag)!r} and __import__("os").path.exists({str(flag)!r}):
        raise ValueError("of the hook")
"""
    with start(tmp_path, config=config) as server:
        flag.touch() if name == "hook" else server.configure(**settings)
        server.kill(signal.SIGHUP)
        server.wait_for(CANNOT_REPLACE, 2)
        assert server.lines(reason)
        # Mended, it serves again.
        flag.unlink(missing_ok=True)
        for each in settings:
            del server._settings[each]
        server.configure()
        server.kill(signal.SIGHUP)
        server.wait_for("on Gunicorn", 2)
        assert server.get("/hello").text == "hello\n"
        assert server.stop() == 0


UNREADABLE = {
    "a syntax error": "workers = (",
    "an exception": "import nosuch",
    "a value that Gunicorn refuses": "workers = 'many'",
    "a worker class that is not there": "worker_class = 'nosuch.Worker'",
    "no end within the time for it": "import time\ntime.sleep(300)",
    "a signal to end meanwhile": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nsignal.pause()",
}


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_a_hup_to_a_configuration_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    limit = "from gunicorn_asgi.process import arbiter\narbiter.RELOAD_SECONDS = 1"
    with start(tmp_path, config=limit) as server:
        [first] = server.workers()
        fine = server.config_file.read_text()
        for count, line in enumerate(UNREADABLE.values(), 1):
            server.config_file.write_text(f"{fine}\n{line}\n")
            server.kill(signal.SIGHUP)
            server.wait_for(r"\[ERROR\] HUP: the configuration cannot be read", count)
            assert server.get("/pid").text == str(first)
        server.config_file.write_text(fine)
        server.kill(signal.SIGHUP)
        server.wait_for("on Gunicorn", 2)
        server.wait_for(rf"Worker exiting \(pid: {first}\)")
        assert server.get("/pid").text != str(first)
        assert server.stop() == 0


@pytest.mark.gunicorn
def test_more_workers_at_a_hup_are_replacements_too(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        (tmp_path / "import").write_text("import nosuch")
        server.configure(workers=4)
        server.kill(signal.SIGHUP)
        server.wait_for(CANNOT_REPLACE, 4)
        assert server.running
        (tmp_path / "import").write_text(FINE)
        server.wait_for("on Gunicorn", 5)
        assert server.stop() == 0
        assert not server.lines("failed to boot")


@pytest.mark.gunicorn
def test_one_more_worker_by_ttin_is_a_replacement_too(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        [first] = server.workers()
        (tmp_path / "import").write_text("raise SystemExit(3)")
        server.kill(signal.SIGTTIN)
        server.wait_for(CANNOT_REPLACE)
        assert server.get("/pid").text == str(first)
        assert server.stop() == 0


@pytest.mark.gunicorn
def test_a_worker_that_is_told_to_stop_while_it_waits_for_its_next_try_leaves(
    tmp_path: Path,
) -> None:
    with start(
        tmp_path,
        workers=2,
        config=NOTE + "\ndef worker_exit(server, worker):\n    note('worker_exit')\n",
    ) as server:
        (tmp_path / "import").write_text("import nosuch")
        os.kill(server.workers()[-1], signal.SIGKILL)
        server.wait_for(CANNOT_REPLACE)
        began = time.monotonic()
        assert server.stop(signal.SIGQUIT) == 0
        assert time.monotonic() - began < 10
        assert not server.lines("failed to boot")


# What is checked before the first worker.


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A certificate with its key, another key, an encrypted one, and a file that is none of these."""
    directory = tmp_path_factory.mktemp("files")
    pair, other = make_authority(directory, "one"), make_authority(directory, "two")
    nonsense = directory / "nonsense.pem"
    nonsense.write_text(
        "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n"
    )
    encrypted = encrypt(directory, "encrypted", pair, "sesame")
    other_encrypted = encrypt(directory, "other-encrypted", other, "sesame")
    both = directory / "both.pem"
    both.write_text(Path(pair.certfile).read_text() + Path(encrypted.keyfile).read_text())
    return {
        "certificate": pair.certfile,
        "key": pair.keyfile,
        "other": other.keyfile,
        "nonsense": str(nonsense),
        "encrypted": encrypted.keyfile,
        "other encrypted": other_encrypted.keyfile,
        "both": str(both),
        "missing": str(directory / "missing.pem"),
    }


def options(**given: str) -> Settings:
    return Settings.read(Config(), given, {})


ENCRYPTED = (
    r"{}: '\S+{}' holds an encrypted key: give its password by the option tls_key_password_file, "
    r"or decrypt it \(openssl pkey -in \S+{} -out NEW\)\."
)
TLS = [
    (
        {"certfile": "missing", "keyfile": "key"},
        r"certfile: '\S+missing\.pem' cannot be read: No such file or directory\.",
    ),
    (
        {"certfile": "certificate", "keyfile": "missing"},
        r"keyfile: '\S+missing\.pem' cannot be read: No such file or directory\.",
    ),
    (
        {"certfile": "key", "keyfile": "key"},
        r"certfile: '\S+one\.key' holds no certificate in PEM form\.",
    ),
    (
        {"certfile": "certificate"},
        r"certfile: '\S+one\.pem' holds no private key in PEM form; set keyfile to the file that has it\.",
    ),
    (
        {"certfile": "certificate", "keyfile": "certificate"},
        r"keyfile: '\S+one\.pem' holds no private key in PEM form\.",
    ),
    (
        {"certfile": "certificate", "keyfile": "encrypted"},
        ENCRYPTED.format("keyfile", r"encrypted\.key", r"encrypted\.key"),
    ),
    ({"certfile": "both"}, ENCRYPTED.format("certfile", r"both\.pem", r"both\.pem")),
    (
        {"certfile": "certificate", "keyfile": "other"},
        r"keyfile: '\S+two\.key' is not the key of the certificate in certfile, '\S+one\.pem'\.",
    ),
    (
        {"certfile": "nonsense", "keyfile": "key"},
        r"certfile '\S+nonsense\.pem' and keyfile '\S+one\.key': \S.*\.",
    ),
    (
        {"certfile": "certificate", "keyfile": "key", "ca_certs": "missing"},
        r"ca_certs: '\S+missing\.pem' cannot be read: No such .*\.",
    ),
    (
        {"certfile": "certificate", "keyfile": "key", "ca_certs": "key"},
        r"ca_certs: '\S+one\.key' is not accepted by OpenSSL: .*\.",
    ),
    (
        {"certfile": "certificate", "keyfile": "key", "ciphers": "NOSUCH"},
        r"ciphers: 'NOSUCH' names no cipher that OpenSSL has\.",
    ),
]


@pytest.mark.parametrize(("settings", "sentence"), TLS)
def test_a_tls_file_that_cannot_be_used_is_named_with_its_setting_and_the_remedy(
    files: dict[str, str], settings: dict[str, str], sentence: str
) -> None:
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, files.get(value, value))
    with pytest.raises(ConfigError) as caught:
        make_context(cfg, options())
    assert re.fullmatch(
        rf"(Invalid value for setting|OpenSSL does not accept) {sentence}", str(caught.value)
    )


@pytest.mark.parametrize("kind", ["X509 ", "TRUSTED ", ""])
def test_every_kind_of_certificate_that_openssl_reads_is_taken(
    tmp_path: Path, files: dict[str, str], kind: str
) -> None:
    certificate = tmp_path / "cert.pem"
    certificate.write_text(
        Path(files["certificate"]).read_text().replace(" CERTIFICATE", f" {kind}CERTIFICATE")
    )
    cfg = Config()
    cfg.set("certfile", str(certificate))
    cfg.set("keyfile", files["key"])
    assert make_context(cfg, options())


# The password of the key.


PASSWORDS: list[tuple[dict[str, str], dict[str, Any], str]] = [
    (
        {"keyfile": "encrypted"},
        {"tls_key_password": "secret"},
        r"Invalid value for setting keyfile: '\S+' cannot be decrypted by the password of the option tls_key_password\.",
    ),
    (
        {"certfile": "both"},
        {"tls_key_password_file": b"secret\n"},
        r"Invalid value for setting certfile: '\S+' cannot be decrypted by the password of the option tls_key_password_file\.",
    ),
    (
        {"keyfile": "other encrypted"},
        {"tls_key_password": "sesame"},
        r"Invalid value for setting keyfile: '\S+' is not the key of the certificate in certfile, '\S+'\.",
    ),
    (
        {"keyfile": "encrypted"},
        {"tls_key_password_file": "missing"},
        r"Invalid value for option tls_key_password_file: '\S+' cannot be read: No such file or directory\.",
    ),
    (
        {"keyfile": "encrypted"},
        {"tls_key_password_file": b"\nsecret"},
        r"Invalid value for option tls_key_password_file: '\S+' has no password in its first line\.",
    ),
    (
        {"keyfile": "encrypted"},
        {"tls_key_password_file": b"secret" * 171},
        r"Invalid value for option tls_key_password_file: '\S+' has a password of more than 1024 bytes\.",
    ),
]


def tls(files: dict[str, str], **settings: str) -> Config:
    cfg = Config()
    for name, value in {"certfile": "certificate", **settings}.items():
        cfg.set(name, files.get(value, value))
    return cfg


def given(directory: Path, files: dict[str, str], values: dict[str, Any]) -> dict[str, str]:
    """The options, with files of their own for what is bytes."""
    written = {}
    for name, value in values.items():
        path = directory / name
        if isinstance(value, bytes):
            path.write_bytes(value)
        written[name] = str(path) if isinstance(value, bytes) else files.get(value, value)
    return written


@pytest.mark.parametrize(
    "values",
    [
        {"tls_key_password": "sesame"},
        {"tls_key_password_file": b"sesame"},
        {"tls_key_password_file": b"sesame\n"},
        {"tls_key_password_file": b"sesame\r\nthe key of 2026"},
    ],
    ids=str,
)
def test_the_password_opens_the_key(
    tmp_path: Path, files: dict[str, str], values: dict[str, Any]
) -> None:
    settings = options(**given(tmp_path, files, values))
    assert make_context(tls(files, keyfile="encrypted"), settings)
    assert make_context(tls(files, certfile="both"), settings)
    assert make_context(tls(files, keyfile="key"), settings)  # it needs none


@pytest.mark.parametrize(("names", "values", "sentence"), PASSWORDS)
def test_a_password_that_does_not_open_the_key_is_refused_without_being_told(
    tmp_path: Path,
    files: dict[str, str],
    names: dict[str, str],
    values: dict[str, Any],
    sentence: str,
) -> None:
    settings = options(**given(tmp_path, files, values))
    with pytest.raises(ConfigError) as caught:
        make_context(tls(files, **names), settings)
    assert re.fullmatch(sentence, str(caught.value))
    told = "".join(traceback.format_exception(caught.value)) + repr(settings)
    assert "secret" not in told
    assert "sesame" not in told


def test_no_message_has_a_password_that_is_not_allowed() -> None:
    for configured, environment in (
        ({"tls_key_password": "secret" * 200}, {}),
        ({"tls_key_password": b"secret"}, {}),
        ({}, {"GUNICORN_ASGI_TLS_KEY_PASSWORD": "secret" * 200}),
        ({"tls_key_password": "secret", "tls_key_password_file": "/f"}, {}),
        ({"tls_key_password_file": "/f"}, {"GUNICORN_ASGI_TLS_KEY_PASSWORD": "secret"}),
        ({}, {"GUNICORN_ASGI_TLS_KEY_PASSWRD": "secret"}),
    ):
        with pytest.raises(ConfigError, match=r"tls_key_password|TLS_KEY_PASSWORD") as caught:
            Settings.read(Config(), configured, environment)
        assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_password_of_any_bytes_may_come_from_the_environment(
    tmp_path: Path, files: dict[str, str]
) -> None:
    odd = encrypt(
        tmp_path, "odd", Pair(files["certificate"], files["key"]), os.fsdecode(b"\xff\xe9ee")
    )
    settings = options(tls_key_password=os.fsdecode(b"\xff\xe9ee"))
    assert make_context(tls(files, keyfile=odd.keyfile), settings)


def test_the_ssl_context_hook_gets_the_password_by_its_default_and_nobody_asks_for_one(
    files: dict[str, str],
) -> None:
    """Otherwise OpenSSL would ask on the terminal, and Gunicorn would wait for ever."""
    cfg = tls(files, keyfile="encrypted")
    cfg.set("ssl_context", lambda _config, default: default())
    assert make_context(cfg, options(tls_key_password="sesame"))
    with pytest.raises(ConfigError, match="holds an encrypted key: give its password"):
        make_context(cfg, options())
    with pytest.raises(ConfigError, match="cannot be decrypted by the password of the option"):
        make_context(cfg, options(tls_key_password="secret"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ca_certs": "certificate", "cert_reqs": 1},
        {"ca_certs": "certificate", "cert_reqs": 2, "ciphers": "ECDHE-ECDSA-AES128-GCM-SHA256"},
    ],
    ids=str,
)
def test_the_context_is_the_one_that_gunicorn_would_make(
    files: dict[str, str], settings: dict[str, Any]
) -> None:
    cfg = tls(files, keyfile="key", **settings)
    ours, theirs = make_context(cfg, options()), sock.ssl_context(cfg)
    for name in (
        "verify_mode",
        "verify_flags",
        "options",
        "minimum_version",
        "maximum_version",
        "check_hostname",
        "security_level",
        "num_tickets",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.get_ciphers() == theirs.get_ciphers()
    assert ours.get_ca_certs() == theirs.get_ca_certs()


@pytest.mark.gunicorn
def test_tls_files_that_cannot_be_used_are_found_before_the_first_worker(
    tmp_path: Path, files: dict[str, str]
) -> None:
    with Gunicorn(
        tmp_path, wait=False, certfile=files["certificate"], keyfile=files["other"]
    ) as server:
        assert server.wait() == 1
        assert server.lines(
            r"\[ERROR\] Invalid value for setting keyfile: '\S+two\.key' is not the key of the certificate in certfile, "
        )
        assert not server.lines("Booting worker|Traceback")


@pytest.mark.gunicorn
@pytest.mark.parametrize(
    ("worker_class", "sentence"),
    [
        (
            "gunicorn_asgi.Wrkr",
            "gunicorn_asgi has no 'Wrkr'; the worker classes are Worker, and LambdaWorker for AWS Lambda.",
        ),
        (
            "gunicorn_asgi.worker",
            "gunicorn_asgi.worker is a module; the class is gunicorn_asgi.Worker.",
        ),
    ],
)
def test_a_worker_class_that_is_none_stops_the_boot_with_one_sentence(
    tmp_path: Path, worker_class: str, sentence: str
) -> None:
    with Gunicorn(tmp_path, wait=False, worker_class=worker_class) as server:
        assert server.wait() == 1
        assert server.output == f"\nError: Invalid value for setting worker_class: {sentence}\n\n"


ON_THE_PATH = {
    "PYTHONPATH": os.pathsep.join([str(APPS), *filter(None, [os.environ.get("PYTHONPATH")])])
}
"""Gunicorn loads the application before it heeds its own setting of that name."""


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_check_config_finds_what_the_boot_would(tmp_path: Path, files: dict[str, str]) -> None:
    """Each case is a process, and none of them serves."""
    tls = {"certfile": files["certificate"], "keyfile": files["key"]}
    cases: list[tuple[str, dict[str, Any], dict[str, Any] | None, str]] = [
        ("main:app", {}, None, ""),
        ("main:app", tls, None, ""),
        (
            "main:app",
            {},
            {"htpp": "h11"},
            "Unknown option 'htpp' in Worker.configure(); the nearest known name is http.",
        ),
        (
            "main:app",
            {"raw_env": ["GUNICORN_ASGI_HTPP=h11"]},
            None,
            "Unknown option GUNICORN_ASGI_HTPP in the environment",
        ),
        ("main:app", {"threads": 2}, None, "Invalid value for setting threads: 2 must be 1"),
        ("main:app", {**tls, "keyfile": files["other"]}, None, "is not the key of the certificate"),
        ("legacy:wsgi", {}, None, "looks like a WSGI application"),
        ("legacy:no_arguments", {}, None, "needs no arguments"),
        (
            "legacy:wsgi",
            {"print_config": True, "check_config": False},
            None,
            "looks like a WSGI application",
        ),
        ("main:nosuch", {}, None, "Failed to find attribute 'nosuch' in 'main'."),
    ]
    for number, (app, settings, options, sentence) in enumerate(cases):
        given = {
            "check_config": True,
            "env": ON_THE_PATH,
            "wait": False,
            "options": options,
            **settings,
        }
        with Gunicorn(tmp_path / str(number), app, **given) as server:
            assert server.wait() == (1 if sentence else 0), (app, settings, server.output)
            assert sentence in server.output
            assert server.log == ""


@pytest.mark.gunicorn
@pytest.mark.parametrize(
    ("worker_class", "app", "sentence"),
    [
        ("gunicorn_asgi.Worker", "main:app", ""),
        ("gunicorn_asgi.Wrkr", "main:app", "gunicorn_asgi has no 'Wrkr'"),
        ("gunicorn_asgi.worker", "main:app", "is a module"),
        ("gunicorn_asgi.Worker", "legacy:wsgi", "looks like a WSGI application"),
    ],
)
def test_check_config_knows_a_worker_that_only_the_arguments_name(
    tmp_path: Path, worker_class: str, app: str, sentence: str
) -> None:
    given: dict[str, Any] = {
        "args": ("--check-config",),
        "env": ON_THE_PATH,
        "wait": False,
        "program": ("-m", "gunicorn_asgi"),
    }
    with Gunicorn(tmp_path, app, worker_class=worker_class, **given) as server:
        assert server.wait() == (1 if sentence else 0)
        assert sentence in server.output
        assert len(server.output.splitlines()) <= 1


@pytest.mark.gunicorn
@pytest.mark.smoke
def test_the_package_runs_gunicorn(tmp_path: Path) -> None:
    with Gunicorn(tmp_path, program=("-m", "gunicorn_asgi")) as server:
        assert server.get("/hello").text == "hello\n"
        assert server.stop() == 0
