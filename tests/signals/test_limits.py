"""How much a source may send. The buckets are real, their clock is moved by hand; calls go through Django's client."""

import json
from math import ceil

import pytest

from byteport.sealing import seal
from signals import limits
from signals.models import Series, Source


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    limits.forget()
    moment = [1000.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: moment[0])
    yield moment
    limits.forget()


def test_a_source_may_send_a_burst_and_then_its_rate(clock):
    assert all(limits.wait_s("a", 1, 2.0) == 0 for _ in range(20))
    assert limits.wait_s("a", 1, 2.0) > 0
    clock[0] += 0.5
    assert limits.wait_s("a", 1, 2.0) == 0
    assert limits.wait_s("a", 1, 2.0) > 0


def test_one_source_does_not_use_up_anothers(clock):
    limits.wait_s("a", 1000, 2.0)
    assert limits.wait_s("a", 1, 2.0) > 0
    assert limits.wait_s("b", 1, 2.0) == 0


def test_a_batch_is_taken_as_a_whole_and_paid_for_afterwards(clock):
    assert limits.wait_s("a", 1000, 2.0) == 0
    pause = limits.wait_s("a", 1, 2.0)
    assert ceil(pause) == (1000 - 20) / 2
    clock[0] += pause + 1
    assert limits.wait_s("a", 1, 2.0) == 0


@pytest.mark.parametrize("given", [None, 0, -1, "many", True, [], {}])
def test_an_option_that_is_no_positive_number_is_passed_over(given):
    assert limits.rate_of({"max_per_second": given}) == limits.PER_SECOND


REMEDY = " The option max_per_second sets another rate."


@pytest.mark.django_db
def test_beyond_it_the_sender_is_told_when_to_come_again_and_nothing_is_kept(client):
    Source.objects.create(slug="a", kind="generic", sealed_secret=seal("s"), options={"max_per_second": 0.1})
    body = json.dumps([{"signal": "x", "resource": f"host/web-{n}/host/x", "status": "firing"} for n in range(3)])
    call = {"content_type": "application/json", "headers": {"Authorization": "Bearer s"}}
    assert client.post("/hooks/a", body, **call).status_code == 202
    refused = client.post("/hooks/a", body.replace("web-", "db-"), **call)
    assert refused.status_code == 429
    assert refused["Content-Type"] == "application/problem+json"
    assert int(refused["Retry-After"]) >= 1
    assert not Series.objects.filter(resource__contains="db-").exists()
    told = Source.objects.get().last_error
    assert told == "A call was refused with 429: it sends more than 0.1 signals a second." + REMEDY


@pytest.mark.django_db
def test_who_is_not_proven_uses_up_nothing(client):
    Source.objects.create(slug="a", kind="generic", sealed_secret=seal("s"), options={"max_per_second": 0.1})
    for _ in range(5):
        client.post("/hooks/a", "{}", content_type="application/json")
    body = json.dumps({"signal": "x", "resource": "host/web-1/host/x", "status": "firing"})
    headers = {"Authorization": "Bearer s"}
    assert client.post("/hooks/a", body, content_type="application/json", headers=headers).status_code == 202
