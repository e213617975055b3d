"""Hosts and ports as people and programs write them: an IPv6 host is bracketed before its port."""

import re

PORT_MAX = 65535
_HOST_PORT = re.compile(r"(dns:///)?(\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|[\w.-]+):(?P<port>[0-9]{1,5})")


def bare_host(host: str) -> str:
    """Return a host without the brackets that an IPv6 address may have.

    >>> bare_host("[::1]"), bare_host("::1"), bare_host("localhost")
    ('::1', '::1', 'localhost')
    """
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def authority(host: str, port: int) -> str:
    """Return "host:port", with brackets around an IPv6 host.

    >>> authority("::1", 7700), authority("[::1]", 7700), authority("127.0.0.1", 7700)
    ('[::1]:7700', '[::1]:7700', '127.0.0.1:7700')
    """
    bare = bare_host(host)
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def require_host_port(address: str) -> str:
    """Return an address that is "host:port", or "dns:///host:port".

    Raises:
        ValueError: it is not.

    >>> require_host_port("dns:///shard-0:7702"), require_host_port("[::1]:7702")
    ('dns:///shard-0:7702', '[::1]:7702')
    """
    found = _HOST_PORT.fullmatch(address)
    if found is None or not 1 <= int(found["port"]) <= PORT_MAX:
        raise ValueError(
            f"{address!r} is no host:port with a port of 1..{PORT_MAX}; a host of IPv6 stands in "
            "brackets, as in [::1]:7700"
        )
    return address
