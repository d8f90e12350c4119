"""What the sources that read a vendor's metrics share. The vendor is a stand-in that has what the test gives it."""

from datetime import UTC, datetime, timedelta

from byteport.core.resource import ResourceRef
from signals.metrics import MetricSourceBase, Options
from signals.reading import Reading
from signals.source import SourceConfig

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WEB_1, WEB_2 = (ResourceRef("host", name, "memory", "memory") for name in ("web-1", "web-2"))


class Vendor(MetricSourceBase[Options]):
    name, title, options_type, behind = "vendor", "Vendor", Options, timedelta(minutes=2)

    def __init__(self, *by_metric):
        super().__init__()
        self.by_metric = by_metric

    def look(self, config, options, span, only=None):
        return (iter(readings) for readings in self.by_metric)


def memory(resource, value, ago=1):
    at = NOON - timedelta(minutes=ago)
    return Reading(signal="memory_pressure", resource=resource, at=at, value=value, source="vendor", period_s=60)


def test_of_two_metrics_that_tell_of_the_same_thing_the_first_one_counts():
    first, second = [memory(WEB_1, 91.0, 2)], [memory(WEB_1, 40.0, 2), memory(WEB_1, 41.0, 1), memory(WEB_2, 42.0)]
    config = SourceConfig("vendor")
    assert [each.value for each in Vendor(first, second).poll(config, NOON)] == [91.0, 42.0]
    assert Vendor(first, second).reread(config, "memory_pressure", WEB_1, NOON).value == 91.0
    assert Vendor(second, first).reread(config, "memory_pressure", WEB_1, NOON).value == 41.0


def test_a_metric_that_tells_nothing_of_a_thing_stands_in_the_way_of_no_other():
    assert [each.value for each in Vendor([], [memory(WEB_1, 40.0)]).poll(SourceConfig("vendor"), NOON)] == [40.0]


def test_of_the_metric_that_counts_each_measurement_does():
    told = [memory(WEB_1, 90.0, 3), memory(WEB_1, 91.0, 2), memory(WEB_1, 92.0, 1)]
    assert list(Vendor(told).poll(SourceConfig("vendor"), NOON)) == told
