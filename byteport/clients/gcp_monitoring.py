"""Google Cloud Monitoring: the averages of a metric's series in one project. Reading only.

ListTimeSeries aligns: each point is the average of a period, and its time is the period's end
(https://docs.cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.timeSeries/list). Periods are counted from the end
of what is asked for, so that this has to be a whole one.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from google.api_core.client_options import ClientOptions
from google.auth.credentials import Credentials
from google.cloud.monitoring_v3 import (
    Aggregation,
    ListTimeSeriesRequest,
    ListTimeSeriesResponse,
    MetricServiceClient,
    TimeInterval,
)

from byteport.clients import gcp
from byteport.core.errors import Permanent, Temporary
from byteport.core.point import Point

ENDPOINT = MetricServiceClient.DEFAULT_ENDPOINT
SCOPE = "https://www.googleapis.com/auth/monitoring.read"
ROLE = "roles/monitoring.viewer"
TIMEOUT_S = 30.0
POINTS_A_PAGE = 20_000
MOST_PAGES = 1_000
MOST_SERIES = 20_000

Count = Callable[[], None]  # is called once a request
Labels = tuple[tuple[str, str], ...]


class Query(msgspec.Struct, frozen=True):
    """One metric's series, narrowed down by a filter in Google's language."""

    filter: str
    period_s: int


class Series(msgspec.Struct, frozen=True):
    """The labels of resource and metric. `unit` is Google's, e.g. "%"; empty where it says none."""

    labels: dict[str, str]
    unit: str
    points: tuple[Point, ...]


_clients: dict[int, tuple[Credentials, MetricServiceClient]] = {}  # by process: a fork may neither use nor close it
_lock = threading.Lock()


def read_series(project: str, query: Query, start: datetime, end: datetime, count: Count) -> list[Series] | None:
    """The series that have points in a span of whole periods. None: the project has no such metric, or not yet.

    Raises Temporary or Permanent unless all could be read.
    """
    found: dict[Labels, tuple[str, list[Point]]] = {}
    try:
        for page in _pages(project, _request(project, query, start, end), count):
            for series in page.time_series:
                _, points = found.setdefault(_labels(series), (series.unit or page.unit, []))
                points.extend(_points(series.points, query.period_s))
            if len(found) > MOST_SERIES:
                raise Permanent(f"Google Cloud: more than {MOST_SERIES:,} series of {query.filter} in {project}")
    except gcp.AbsentError:
        return None
    return [Series(dict(labels), unit, tuple(points)) for labels, (unit, points) in found.items()]


def _request(project: str, query: Query, start: datetime, end: datetime) -> ListTimeSeriesRequest:
    return ListTimeSeriesRequest(
        name=f"projects/{project}",
        filter=query.filter,
        interval=TimeInterval(start_time=start, end_time=end),
        aggregation=Aggregation(
            alignment_period=timedelta(seconds=query.period_s),
            per_series_aligner=Aggregation.Aligner.ALIGN_MEAN,
        ),
        view=ListTimeSeriesRequest.TimeSeriesView.FULL,
        page_size=POINTS_A_PAGE,
    )


def _pages(project: str, request: ListTimeSeriesRequest, count: Count) -> Iterator[Any]:
    """The bare messages, since those that wrap them are slow to read. A series may go on in the next page."""
    remedy = f"BytePort's account needs the role {ROLE} in the project {project}."
    for _ in range(MOST_PAGES):
        client = _client()
        count()
        with gcp.own_errors(f"time series of {project}", remedy):
            answer = client.list_time_series(request, retry=None, timeout=TIMEOUT_S)
        page = ListTimeSeriesResponse.pb(next(answer.pages))
        _require_whole(page, project)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
    raise Permanent(f"Google Cloud, time series of {project}: more than {MOST_PAGES:,} pages")


def _client() -> MetricServiceClient:
    """Raises Temporary or Permanent without credentials that are good now, before anything is asked."""
    credentials = gcp.credentials(SCOPE)
    with _lock:
        known, client = _clients.get(os.getpid(), (None, None))
        if client is None or known is not credentials:
            client = MetricServiceClient(credentials=credentials, client_options=ClientOptions(api_endpoint=ENDPOINT))
            _clients[os.getpid()] = (credentials, client)
        return client


def _require_whole(page: Any, project: str) -> None:
    """Google may answer with what it could read, and the reasons why that is not all."""
    if page.execution_errors:
        why = page.execution_errors[0].message[:500]
        raise Temporary(f"Google Cloud, time series of {project}: incomplete ({why})")


def _labels(series: Any) -> Labels:
    return tuple(sorted({**series.resource.labels, **series.metric.labels}.items()))


def _points(listed: Iterable[Any], period_s: int) -> Iterator[Point]:
    for point in listed:
        kind = point.value.WhichOneof("value")
        if kind in ("double_value", "int64_value"):
            end = datetime.fromtimestamp(point.interval.end_time.seconds, UTC)
            yield Point(end - timedelta(seconds=period_s), float(getattr(point.value, kind)))
