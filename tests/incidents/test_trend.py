"""The trend: read from real samples in PostgreSQL, drawn and fitted from plain data."""

import math
import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest
import time_machine
from django.db import connection
from hypothesis import given, settings
from hypothesis import strategies as st

from incidents.trend import (
    BUCKETS,
    Mark,
    Point,
    Points,
    figure,
    growth_of,
    marks_of,
    points_of,
    sparkline,
    svg,
)
from runbooks.models import VerificationSample
from signals.models import Sample
from tests.incidents import scenes

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MARKS = (Mark(START, "detected"), Mark(START + timedelta(seconds=2), "acted"))


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def line(values: list[float], *, step_s: float = 10, unit: str = "%") -> Points:
    points = (Point(at(place * step_s), value, value, value) for place, value in enumerate(values))
    return Points(tuple(points), unit)


def rising(minutes: float, per_day: float, step_s: float = 10) -> Points:
    count = int(minutes * 60 / step_s) + 1
    return line([60 + per_day * place * step_s / 86_400 for place in range(count)], step_s=step_s)


# ------------------------------------------------------------------------------------------ reading


@pytest.fixture
def event(db):
    return scenes.incident("resolved", detected_at=START)  # it ends two minutes later


def keep(event, values: dict[float, float]) -> None:
    Sample.objects.bulk_create(Sample(fingerprint=event.fingerprint, at=at(s), value=v) for s, v in values.items())


def test_no_samples_give_no_points(event):
    assert points_of(event).points == ()


def test_each_sample_of_a_short_course_is_a_point(event):
    keep(event, {-20: 84.0, -10: 86.0, 0: 91.0, 60: 70.0})
    points = points_of(event)
    assert [(point.at, point.value) for point in points.points] == [
        (at(-20), 84.0), (at(-10), 86.0), (at(0), 91.0), (at(60), 70.0),
    ]  # fmt: skip
    assert (points.low, points.high, points.last, points.unit) == (70.0, 91.0, 70.0, "%")


def test_the_course_begins_half_an_hour_before_detection_and_ends_with_the_incident(event):
    keep(event, {-1801: 1.0, -1800: 2.0, 120: 3.0, 121: 4.0})
    assert [point.value for point in points_of(event).points] == [2.0, 3.0]


def test_the_samples_of_other_series_stay_out(event):
    keep(scenes.incident("resolved", detected_at=START), {0: 91.0})
    assert points_of(event).points == ()


def test_a_long_course_is_thinned_without_losing_its_peak(event):
    keep(event, {second: 90.0 + (second == -777) * 9 for second in range(-1800, 121)})
    points = points_of(event)
    assert len(points.points) <= BUCKETS
    assert points.high == 99.0
    assert [point.at for point in points.points] == sorted(point.at for point in points.points)
    assert points.points[-1].at == at(120)


def test_the_looks_of_the_verification_belong_to_it(event):
    VerificationSample.objects.create(event=event, at=at(60), value=70.5, look="good", message="")
    VerificationSample.objects.create(event=event, at=at(70), value=None, look="inconclusive", message="")
    assert [point.value for point in points_of(event).points] == [70.5]


def test_what_is_no_number_is_left_out(event):
    keep(event, {-30: math.nan, -20: math.inf, -10: -math.inf, 0: 91.0})
    assert [point.value for point in points_of(event).points] == [91.0]


def test_an_open_incident_is_drawn_up_to_now(db):
    event = scenes.incident("escalated", detected_at=START)
    keep(event, {0: 91.0, 3600: 92.0, 7200: 93.0})
    with time_machine.travel(at(3700), tick=False):
        assert points_of(event).last == 92.0


def test_it_is_one_query_over_the_days_in_question(event, django_assert_num_queries):
    with django_assert_num_queries(1):
        points_of(event)


def test_a_sample_of_any_day_is_found_whatever_its_partition(event):
    keep(event, {0: 91.0})
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM samples")
        assert cursor.fetchone()[0].startswith("samples_")
    assert points_of(event).last == 91.0


def test_marks_are_what_has_happened_so_far(event):
    assert [mark.label for mark in marks_of(event)] == ["detected", "resolved"]


# ------------------------------------------------------------------------------------------ drawing


def drawn(points: Points, **given) -> ET.Element:
    """The picture as an XML parser sees it: it has to be well formed."""
    return ET.fromstring(svg(points, **{"threshold": 85.0, "clear": 80.0, "marks": MARKS, **given}))


def named(picture: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in picture.iter() if element.get("class") == name]


def texts(picture: ET.Element) -> list[str]:
    return [element.text or "" for element in named(picture, "trend-label")]


def test_one_point_is_a_dot():
    (path,) = named(drawn(line([91.0])), "trend-line")
    assert re.fullmatch(r"M[\d.]+ [\d.]+h0", path.get("d"))


def test_the_line_falls_when_the_value_does():
    (path,) = named(drawn(line([90.0, 80.0, 70.0])), "trend-line")
    heights = [float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", path.get("d"))]
    assert heights == sorted(heights)
    assert len(set(heights)) == 3


def test_threshold_clear_and_marks_are_drawn_and_named():
    picture = drawn(line([90.0, 70.0]))
    assert len(named(picture, "trend-threshold")) == len(named(picture, "trend-clear")) == 1
    assert len(named(picture, "trend-mark")) == 2
    assert {"threshold 85.0 %", "clear 80.0 %", "detected 12:00:00", "acted 12:00:02"} <= set(texts(picture))


def test_what_is_not_given_is_not_drawn():
    picture = drawn(line([90.0, 70.0]), threshold=None, clear=math.inf, marks=())
    assert not named(picture, "trend-threshold") + named(picture, "trend-clear") + named(picture, "trend-mark")


def test_it_says_in_words_what_it_shows():
    picture = drawn(line([90.0, 95.0, 70.0]))
    title, description = list(picture)[:2]
    assert picture.get("role") == "img"
    assert picture.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert "lowest 70.0 %, highest 95.0 %, latest 70.0 %" in description.text
    assert "threshold 85.0 %" in description.text
    assert "detected 2026-03-01 12:00:00 UTC" in description.text


def test_a_percentage_is_not_drawn_beyond_what_a_percentage_can_be():
    labels = [text for text in texts(drawn(line([99.0, 98.0]), marks=())) if re.fullmatch(r"[\d.]+ %", text)]
    assert labels
    assert all(0 <= float(label.split()[0]) <= 100 for label in labels)


def test_nothing_is_drawn_where_nothing_was_measured():
    points = line([90.0, 91.0, 92.0])
    late = Point(at(4000), 70.0, 70.0, 70.0)
    (path,) = named(drawn(Points((*points.points, late), "%")), "trend-line")
    assert path.get("d").count("M") == 2


def test_a_band_shows_what_a_bucket_holds_beside_its_latest_value():
    points = Points((Point(at(0), 90.0, 80.0, 95.0), Point(at(10), 90.0, 90.0, 90.0)), "%")
    assert len(named(drawn(points), "trend-band")) == 1
    assert not named(drawn(line([90.0, 80.0])), "trend-band")


def test_it_holds_no_script_and_refers_to_nothing():
    unit = '"><script>alert(1)</script><image href="https://evil.example"/>'
    picture = svg(line([1.0, 2.0], unit=unit), threshold=1.5, clear=None, marks=(Mark(START, "<b onload=x>"),))
    assert "<script" not in picture
    assert "<b" not in picture
    assert {element.tag.partition("}")[2] for element in ET.fromstring(picture).iter()} == {
        "svg", "title", "desc", "path", "text",
    }  # fmt: skip
    assert not re.search(r"\s(href|src|style|on\w+)=", re.sub(r">[^<]*<", "><", picture))


values = st.floats(min_value=-1e100, max_value=1e100)


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=30), st.none() | values, st.sampled_from(["%", "", "sessions"]))
def test_whatever_was_measured_can_be_drawn_within_the_picture(measured, threshold, unit):
    points = line(measured, unit=unit)
    picture = ET.fromstring(svg(points, threshold=threshold, clear=None, marks=MARKS))
    for path in named(picture, "trend-line"):
        for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path.get("d")):
            assert 0 <= float(x) <= 720
            assert 0 <= float(y) <= 260


# ------------------------------------------------------------------------------------------ in text


@pytest.mark.parametrize(
    ("measured", "sparks"),
    [([], ""), ([5.0], "▄"), ([5.0, 5.0], "▄▄"), ([0.0, 1.0], "▁█"), ([0.0, 3.5, 7.0, 0.0], "▁▅█▁")],
)
def test_a_sparkline_goes_from_its_lowest_to_its_highest(measured, sparks):
    assert sparkline(line(measured)) == sparks


def test_a_long_sparkline_keeps_its_width_and_its_end():
    sparks = sparkline(line([*[90.0] * 230, *[10.0] * 3]))
    assert len(sparks) <= 60
    assert (sparks[0], sparks[-1]) == ("█", "▁")


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [(91.234, "%", "91.2 %"), (3.0, "sessions", "3 sessions"), (1.0, "", "1"), (None, "%", "–"), (math.nan, "%", "–")],
)
def test_a_figure_bears_its_unit(value, unit, shown):
    assert figure(value, unit) == shown


# ------------------------------------------------------------------------------------------ the fit


def test_growth_is_the_slope_of_the_line_a_day():
    growth = growth_of(rising(30, per_day=12.0))
    assert (growth.over, growth.samples) == (timedelta(minutes=30), 181)
    assert [growth.per_day, growth.slowest, growth.fastest] == pytest.approx([12.0, 12.0, 12.0])


def test_the_halves_tell_how_sure_it_is():
    bent = line([60 + place * 0.01 for place in range(100)] + [61 + place * 0.02 for place in range(100)])
    growth = growth_of(bent)
    assert (growth.slowest, growth.fastest) == (pytest.approx(86.4), pytest.approx(172.8))
    assert growth.slowest < growth.per_day < growth.fastest


def test_less_than_half_an_hour_of_samples_says_nothing():
    assert growth_of(rising(20, per_day=12.0)) is None


def test_few_samples_say_nothing():
    assert growth_of(rising(60, per_day=12.0, step_s=600)) is None


def test_what_is_no_line_or_falls_gives_no_estimate():
    zigzag = line([60.0, 70.0] * 120)
    assert growth_of(zigzag) is None
    assert growth_of(line([60.0] * 240)) is None
    assert growth_of(rising(30, per_day=-12.0)) is None


def test_what_came_after_the_action_is_not_part_of_the_growth():
    before = rising(30, per_day=12.0)
    after = tuple(Point(at(1800 + 10 * n), 20.0, 20.0, 20.0) for n in range(1, 30))
    growth = growth_of(Points((*before.points, *after), "%"), until=at(1801))
    assert growth.per_day == pytest.approx(12.0)
