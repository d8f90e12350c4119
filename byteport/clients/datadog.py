"""Datadog: the points of a metric, grouped by tags. Reading only.

The keys are those of the environment, `DD_API_KEY` and `DD_APP_KEY`, or of the files that `DD_API_KEY_FILE` and
`DD_APP_KEY_FILE` name.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from datadog_api_client import ApiClient, Configuration
from datadog_api_client.exceptions import ApiException, OpenApiException
from datadog_api_client.v1.api.metrics_api import MetricsApi
from urllib3.exceptions import HTTPError, MaxRetryError

from byteport.core.errors import Permanent, Temporary
from byteport.core.point import Point
from byteport.environment import secret

TIMEOUT_S = (5, 30)  # to connect, to answer
THROTTLED_DELAY_S = 60.0
LONGEST_DELAY_S = 3600.0
SCOPE = "timeseries_query"
MOST_SERIES = 20_000
SITES = {
    site: f"https://api.{site}"
    for site in (
        "datadoghq.com", "us3.datadoghq.com", "us5.datadoghq.com", "datadoghq.eu", "ap1.datadoghq.com",
        "ap2.datadoghq.com", "ddog-gov.com",
    )
}  # fmt: skip

_LIBRARY = re.compile(r"^HTTPS?Connection(?:Pool)?\([^)]*\): ")


class Group(msgspec.Struct, frozen=True):
    """One group's tags and points. `unit` is Datadog's name of it, e.g. "fraction"; empty where it knows none."""

    tags: dict[str, str]
    unit: str
    points: tuple[Point, ...]


def query(site: str, text: str, start: datetime, end: datetime, count: Callable[[], None]) -> list[Group]:
    """What a query comes to, group by group. Raises Temporary or Permanent."""
    count()
    with own_errors(SCOPE), ApiClient(configuration(site)) as client:
        answer = MetricsApi(client).query_metrics(_from=int(start.timestamp()), to=int(end.timestamp()), query=text)
        _require_parsed(answer)
        error, series = answer.get("error"), answer.get("series") or ()
        if error or answer.get("status") == "error":
            raise Permanent(f"Datadog, query {text}: {str(error or answer.get('message', ''))[:500]}")
        if len(series) > MOST_SERIES:
            raise Permanent(f"Datadog, query {text}: more than {MOST_SERIES:,} groups")
        return [_group(each) for each in series]


def configuration(site: str) -> Configuration:
    """Raises Permanent when a key is missing."""
    keys = {"apiKeyAuth": secret("DD_API_KEY"), "appKeyAuth": secret("DD_APP_KEY")}
    if not all(keys.values()):
        raise Permanent("Datadog: DD_API_KEY and DD_APP_KEY have to be set, or DD_API_KEY_FILE and DD_APP_KEY_FILE.")
    return Configuration(host=SITES[site], api_key=keys, request_timeout=TIMEOUT_S, enable_retry=False)


def _require_parsed(model: Any) -> None:
    """The client hands over what is not of its models as it came, and marks what holds it."""
    if getattr(model, "_unparsed", True):
        raise Permanent("Datadog's answer is not as expected.")


def _group(series: Any) -> Group:
    _require_parsed(series)
    pairs = [str(tag).partition(":") for tag in series.get("tag_set") or str(series.get("scope", "")).split(",")]
    units = series.get("unit") or ()
    unit = str(units[0].get("name") or "") if units and units[0] is not None else ""
    return Group({key: value for key, _, value in pairs}, unit, tuple(_points(series.get("pointlist") or ())))


def _points(listed: Sequence[Any]) -> Iterator[Point]:
    """Datadog says null for a period of which it knows nothing."""
    for point in listed:
        _require_parsed(point)
        at, value = point.value
        if at is not None and value is not None:
            yield Point(datetime.fromtimestamp(at / 1000, UTC), value)


@contextmanager
def own_errors(scope: str) -> Iterator[None]:
    """Turns the client's errors into Temporary and Permanent. `scope`: what the application key has to be good for."""
    try:
        yield
    except ApiException as error:
        raise _refusal(error, scope) from error
    except HTTPError as error:
        raise Temporary(f"Datadog cannot be reached: {_reason(error)}") from error
    except (OpenApiException, OverflowError, TypeError, ValueError) as error:  # an answer that is not of its own models
        raise Permanent(f"Datadog's answer is not as expected: {str(error)[:500]}") from error


def _reason(error: HTTPError) -> str:
    """What went wrong at last, without the library's objects and the whole query, which stand around it."""
    return _LIBRARY.sub("", str(error.reason if isinstance(error, MaxRetryError) else error))[:500]


def _refusal(error: ApiException, scope: str) -> Temporary | Permanent:
    status = error.status or 0
    if status == 429:
        return Temporary("Datadog: too many requests (429)", delay_s=_pause_s(error))
    if status in (401, 403):
        return Permanent(
            f"Datadog refuses the keys ({status}): they have to be of this site, and the application key needs the"
            f" scope {scope}."
        )
    text = f"Datadog: {status} {str(error.reason)[:200]}"
    return Temporary(text) if status >= 500 or not status else Permanent(text)


def _pause_s(error: ApiException) -> float:
    """`X-RateLimit-Reset`: seconds until the next period of its limit."""
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    said = str(headers.get("x-ratelimit-reset", ""))
    return min(float(said), LONGEST_DELAY_S) if said.isascii() and said.isdigit() else THROTTLED_DELAY_S
