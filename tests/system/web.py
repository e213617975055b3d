"""What every service shows over HTTP."""

import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

# Whatever proxy the environment names, these servers are on this machine.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def http_get(address: str, path: str, timeout_s: float = 10.0) -> tuple[int, str]:
    """Return status and body of a page."""
    try:
        with _DIRECTLY.open(f"http://{address}{path}", timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()


def metric(address: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that have these labels; zero when there is none."""
    _, text = http_get(address, "/metrics")
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
