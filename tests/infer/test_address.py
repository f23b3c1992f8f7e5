"""Addresses to listen at: a taken one is told in one line, and before anything else is done."""

from __future__ import annotations

import pytest

from janus_train.errors import UserError
from janus_train.infer.address import bind, check_address, is_loopback, url


def test_a_taken_port_and_a_foreign_host_are_told() -> None:
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^http://127\.0\.0\.1:{port} cannot be served \(Address already in use\)"
        ):
            check_address("127.0.0.1", port)
    check_address("127.0.0.1", port)
    for host in ("192.0.2.1", "there.is.no.such.host.invalid", "x" * 300):
        with pytest.raises(UserError, match=r"cannot be served .*: give another --port or --host"):
            check_address(host, 8000)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LocalHost"])
def test_loopback_is_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", ""])
def test_other_addresses_are_not(host: str) -> None:
    assert not is_loopback(host)


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    assert url("::1", 80) == "http://[::1]:80" and url("127.0.0.1", 80) == "http://127.0.0.1:80"
