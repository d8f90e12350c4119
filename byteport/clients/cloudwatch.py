"""CloudWatch: which series there are, and their points. Reading only.

ListMetrics answers with 500 series a page, GetMetricData takes 500 queries a call
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html).
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from byteport.clients import aws
from byteport.core.errors import Permanent, Temporary
from byteport.core.point import Point

QUERIES_A_CALL = 500
MOST_SERIES = 20_000
MOST_PAGES = 1_000

Count = Callable[[], None]  # is called once a request


class Series(msgspec.Struct, frozen=True):
    """One series: its dimensions as pairs of name and value, in the order of their names."""

    namespace: str
    metric: str
    dimensions: tuple[tuple[str, str], ...]


class Query(msgspec.Struct, frozen=True):
    series: Series
    period_s: int


def list_series(
    client: Any, namespace: str, metric: str, dimension: tuple[str, str] | None, count: Count
) -> list[Series]:
    """The series that had data within three hours. Raises Temporary, or Permanent, also when there are too many."""
    given: dict[str, Any] = {"Namespace": namespace, "MetricName": metric, "RecentlyActive": "PT3H"}
    if dimension:
        given["Dimensions"] = [{"Name": dimension[0], "Value": dimension[1]}]
    found: list[Series] = []
    for page in _pages(client.list_metrics, given, f"ListMetrics {namespace} {metric}", count):
        found += [_series(each) for each in page["Metrics"]]
        if len(found) > MOST_SERIES:
            raise Permanent(f"AWS: {namespace} {metric} has more than {MOST_SERIES:,} series in one region.")
    return found


def _series(listed: dict[str, Any]) -> Series:
    dimensions = sorted((each["Name"], each["Value"]) for each in listed.get("Dimensions", ()))
    return Series(listed["Namespace"], listed["MetricName"], tuple(dimensions))


def read_points(
    client: Any, queries: Sequence[Query], start: datetime, end: datetime, count: Count
) -> list[list[Point]]:
    """The points of each query, in its order. Raises Temporary or Permanent unless all could be read."""
    points: list[list[Point]] = [[] for _ in queries]
    for first in range(0, len(queries), QUERIES_A_CALL):
        asked = [_query(n, query) for n, query in enumerate(queries[first : first + QUERIES_A_CALL], first)]
        given = {"MetricDataQueries": asked, "StartTime": start, "EndTime": end, "ScanBy": "TimestampAscending"}
        for page in _pages(client.get_metric_data, given, "GetMetricData", count):
            for result in page["MetricDataResults"]:
                _require_read(result)
                pairs = zip(result["Timestamps"], result["Values"], strict=True)
                points[int(result["Id"][1:])] += [Point(at, value) for at, value in pairs]
    return points


def _query(n: int, query: Query) -> dict[str, Any]:
    series = query.series
    metric = {
        "Namespace": series.namespace,
        "MetricName": series.metric,
        "Dimensions": [{"Name": name, "Value": value} for name, value in series.dimensions],
    }
    return {"Id": f"q{n}", "MetricStat": {"Metric": metric, "Period": query.period_s, "Stat": "Average"}}


def _require_read(result: dict[str, Any]) -> None:
    """`PartialData` goes on with the next page."""
    status = result.get("StatusCode", "Complete")
    if status == "InternalError":
        raise Temporary("AWS, GetMetricData: a series could not be read (InternalError)")
    if status == "Forbidden":
        raise Permanent("AWS, GetMetricData: a series may not be read (Forbidden)")


def _pages(call: Callable[..., Any], given: dict[str, Any], what: str, count: Count) -> Iterator[Any]:
    token: dict[str, str] = {}
    for _ in range(MOST_PAGES):
        count()
        with aws.own_errors(what):
            page = call(**given, **token)
        yield page
        if not page.get("NextToken"):
            return
        token = {"NextToken": page["NextToken"]}
    raise Permanent(f"AWS, {what}: more than {MOST_PAGES:,} pages")
