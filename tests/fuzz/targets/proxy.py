"""The PROXY header: its end is found at the same byte in any pieces, and it holds addresses only."""

from __future__ import annotations

from ipaddress import ip_address

from gunicorn_asgi.net.proxy_protocol import (
    MAX_V1,
    MAX_V2,
    NO_HEADER,
    Mode,
    ProxyHeader,
    read_proxy_header,
)

MODES: tuple[Mode, ...] = ("auto", "v1", "v2")


def check(data: bytes) -> None:
    found = [check_mode(data, mode) for mode in MODES]
    if data[:1] == b"P":
        assert found[0] == found[1]
    elif data:
        assert found[0] == found[2] or found[2] == NO_HEADER


def check_mode(data: bytes, mode: Mode) -> ProxyHeader | str | None:
    found = read(data, mode)
    # After each byte, a result is final: whatever follows does not change it.
    for end in range(min(len(data), MAX_V2 + 1)):
        early = read(data[:end], mode)
        if early is not None:
            assert found == early or (isinstance(found, str) and isinstance(early, str)), (
                data,
                end,
            )
            break
    else:
        if isinstance(found, ProxyHeader) and found.length:
            assert found.length == len(data)
    if isinstance(found, ProxyHeader) and found != NO_HEADER:
        assert 0 < found.length <= len(data)
        assert found.length <= (MAX_V1 if data[:1] == b"P" else MAX_V2)
        for address, port in filter(None, (found.client, found.server)):
            assert str(ip_address(address)) == address
            assert 0 <= port <= 65535
    elif found is None:
        assert len(data) < MAX_V2
    return found


def read(data: bytes, mode: Mode) -> ProxyHeader | str | None:
    try:
        return read_proxy_header(data, mode)
    except ValueError as error:
        text = str(error)
    assert text.startswith("PROXY protocol: ")
    assert text.isprintable()
    return text
