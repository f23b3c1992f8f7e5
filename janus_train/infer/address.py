"""The address that the app or the server listens at."""

from __future__ import annotations

import ipaddress
import socket

from janus_train.errors import UserError


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound to the address and does not listen yet: whoever connects is refused until it does.

    Raises:
        UserError: the port is taken, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no machine can have
        bound.close()
        problem = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f"{url(host, port)} cannot be served ({problem}): give another --port or --host") from None
    return bound


def check_address(host: str, port: int) -> None:
    """Raises `UserError` unless a page can be served there."""
    bind(host, port).close()


def url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``, a name or an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
