"""Hosts and ports as people and programs write them: an IPv6 host is bracketed before its port."""


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
