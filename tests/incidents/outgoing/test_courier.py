"""What outgoing webhooks are told, and what happens when they do not listen.

Real: PostgreSQL, the queue's table, ingest and the loop's own conclusions, HTTP to servers on this machine, and
openssl as the second opinion on signatures.

Not real: the worker that takes the tasks; times of back-off are moved by hand.
"""

import subprocess
import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django_q.signing import SignedPackage

from byteport import health, tasks
from byteport.core.clock import now
from byteport.core.outcome import ActionOutcome, Result
from byteport.core.resource import ResourceRef
from byteport.models import QueuedTask
from incidents import conclude
from incidents.handover import hand_over
from incidents.outgoing import courier
from incidents.outgoing.courier import send_again, sweep
from runbooks import act
from runbooks.models import AgentSettings
from runbooks.stage import Move
from signals.happening import Happening
from signals.ingest import ingest
from signals.models import OutgoingEvent, OutgoingWebhook, ResolvedBy, SignalEvent, Status
from signals.outgoing import SEND, publish
from signals.reading import Reading, State
from signals.source import Call, SourceConfig
from signals.sources.generic import SOURCE as GENERIC
from tests.incidents import scenes
from tests.incidents.escalation.wire import Answer, Fault
from tests.incidents.outgoing.receiver import SECRET, receiver, webhook

pytestmark = pytest.mark.django_db
WEB_1 = ResourceRef("host", "web-1", "mount", "/var")


@pytest.fixture(autouse=True)
def _live(db):
    AgentSettings.objects.create(dry_run=False)


@pytest.fixture
def far():
    with receiver() as far:
        yield far


@pytest.fixture
def hook(far):
    return webhook(f"{far.base}/hooks/byteport?team=ops")


@transaction.atomic
def escalate(event: SignalEvent, why: str = "It cannot be fixed.") -> SignalEvent:
    conclude.escalate(event, Move(to=Status.ESCALATED, reason=why), at=now(), token=None)
    return event


@transaction.atomic
def resolve(event: SignalEvent, by: ResolvedBy = ResolvedBy.PERSON) -> None:
    move = Move(to=Status.RESOLVED, reason="The signal cleared.", fields={"resolved_by": by})
    conclude.resolve(event, move, at=now(), token=None)


@transaction.atomic
def tell(kind: Happening = Happening.OPENED, **fields) -> SignalEvent:
    event = scenes.incident("detected", **fields)
    publish(kind, [event.pk], now())
    return event


def plan_of(sql: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {sql}")
        return "\n".join(line for (line,) in cursor.fetchall())


def the() -> OutgoingEvent:
    return OutgoingEvent.objects.latest("pk")


def queued() -> int:
    """Tasks in the queue that send events."""
    return sum(SignedPackage.loads(task.payload)["func"] == SEND for task in QueuedTask.objects.all())


def due_now() -> None:
    """Time passes: what waits may be tried again."""
    OutgoingWebhook.objects.update(paused_until=None)
    OutgoingEvent.objects.filter(due_at__isnull=False).update(due_at=now())


def firing(resource: ResourceRef = WEB_1, **fields) -> Reading:
    return Reading(signal="disk_full", resource=resource, at=now(), state=State.FIRING, source="probe", **fields)


# --- what is told, and when


def test_an_incident_is_told_from_its_opening_to_its_end(far, hook):
    (event_id,) = ingest([firing()]).opened
    event = SignalEvent.objects.get(pk=event_id)
    escalate(event)
    resolve(event)
    tasks.send_events()
    assert far.types == ["incident.opened", "incident.escalated", "incident.resolved"]
    opened, escalated, resolved = (body["incident"] for body in far.bodies)
    assert [each["id"] for each in (opened, escalated, resolved)] == [event_id] * 3
    assert [each["status"] for each in (opened, escalated, resolved)] == ["detected", "escalated", "resolved"]
    assert [each["resolved_by"] for each in (opened, escalated, resolved)] == [None, None, "person"]
    assert (opened["resource"], opened["label"]) == (event.resource, "/var on web-1")
    assert escalated["reason"] == "It cannot be fixed."
    assert resolved["url"].endswith(f"/incidents/{event_id}/")


def test_an_action_is_told_with_its_step_and_result(far, hook):
    event = scenes.planned("acting")
    row = scenes.action(event, "journal", "started", "", finished_at=None)
    act._complete(row, ActionOutcome(Result.DONE, "freed 3 GB"))
    act._complete(row, ActionOutcome(Result.FAILED, "somebody else looked later"))
    tasks.send_events()
    (body,) = far.bodies
    assert body["type"] == "incident.acted"
    told = {key: body["action"][key] for key in ("id", "step", "result", "message")}
    assert told == {"id": str(row.uid), "step": "journal", "result": "done", "message": "freed 3 GB"}
    assert body["incident"]["status"] == "acting"


def test_an_action_that_is_given_up_is_told_as_unknown(far, hook):
    event = scenes.planned("acting")
    scenes.action(event, "journal", "started", "", finished_at=None)
    escalate(event)
    tasks.send_events()
    assert far.types == ["incident.acted", "incident.escalated"]
    assert far.bodies[0]["action"]["result"] == "unknown"


def test_what_is_rolled_back_is_not_told(far, hook):
    event = scenes.incident("detected")
    with transaction.atomic():
        escalate(event)
        transaction.set_rollback(True)
    tasks.send_events()
    assert (far.got, OutgoingEvent.objects.count()) == ([], 0)


def test_a_webhook_is_told_only_what_it_wants_and_only_while_it_is_on(far, hook):
    OutgoingWebhook.objects.update(kinds=["incident.resolved"])
    webhook(f"{far.base}/off", name="off", enabled=False)
    event = escalate(scenes.incident("detected"))
    resolve(event)
    tasks.send_events()
    assert far.types == ["incident.resolved"]


def test_every_webhook_gets_the_same_event_under_a_delivery_id_of_its_own(far, hook):
    webhook(f"{far.base}/other", name="other")
    tell()
    tasks.send_events()
    one, other = far.bodies
    assert one["id"] == other["id"]
    assert one["delivery"] != other["delivery"]


def test_a_storm_is_written_by_as_many_statements_as_one_incident(far, hook, django_assert_max_num_queries):
    many = [firing(ResourceRef("host", f"web-{n}", "mount", "/var")) for n in range(200)]
    with django_assert_max_num_queries(30) as seen:
        ingest(many)
    assert OutgoingEvent.objects.count() == 200
    writes = [each for each in seen.captured_queries if "outgoing_events" in each["sql"]]
    assert len(writes) == 1
    assert queued() == 1


def test_without_a_webhook_an_opening_costs_one_look(django_assert_max_num_queries):
    with django_assert_max_num_queries(30) as seen:
        ingest([firing()])
    assert len([each for each in seen.captured_queries if "outgoing" in each["sql"]]) == 1
    assert queued() == 0


# --- how it is proved


def test_openssl_and_byteports_own_webhook_find_the_signature_right(far, hook):
    tell()
    tasks.send_events()
    (asked,) = far.got
    timestamp = asked.headers["X-BytePort-Timestamp"]
    openssl = subprocess.run(
        ["openssl", "dgst", "-sha256", "-hmac", SECRET, "-r"],
        input=timestamp.encode() + b"." + asked.raw,
        capture_output=True,
        check=True,
    )
    assert asked.headers["X-BytePort-Signature"] == f"sha256={openssl.stdout.split()[0].decode()}"
    assert GENERIC.authenticate(SourceConfig("other", secret=SECRET), Call(asked.headers, asked.raw), now())
    assert abs(now().timestamp() - int(timestamp)) < 60


def test_the_headers_say_what_the_body_says(far, hook):
    tell()
    tasks.send_events()
    (asked,) = far.got
    assert (asked.method, asked.path, asked.query) == ("POST", "/hooks/byteport", {"team": "ops"})
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["X-BytePort-Event"] == asked.body["type"] == "incident.opened"
    assert asked.headers["X-BytePort-Delivery"] == asked.body["delivery"]
    assert asked.headers["Host"] == far.base.removeprefix("http://")


def test_hostile_names_and_secrets_are_told_as_harmless_text(far, hook):
    hostile = 'x"}\r\nX-Evil: 1\r\n\r\n<script>alert(1)</script>\x1b[31m\u202e password=hunter2'
    event = scenes.incident("detected", detail=hostile)
    escalate(event, why=f"{hostile} Bearer abcdefgh12345678 " + "long " * 1000)
    tasks.send_events()
    (asked,) = far.got
    said = asked.body["incident"]
    assert "hunter2" not in asked.raw.decode()
    assert "abcdefgh12345678" not in asked.raw.decode()
    assert asked.headers.get("X-Evil") is None
    assert all(text.isprintable() for text in (said["detail"], said["reason"]))
    assert len(said["reason"]) <= 600
    assert said["detail"].startswith('x"} X-Evil: 1')


# --- dry-run and drills


def test_in_dry_run_nothing_is_sent_and_the_row_says_why(far, hook):
    AgentSettings.objects.update(dry_run=True)
    tell()
    tasks.send_events()
    assert (far.got, the().status) == ([], "held")
    assert "dry-run" in the().answer


def test_in_dry_run_it_is_sent_where_the_setting_says_so(far, hook, settings):
    settings.TELL_IN_DRY_RUN = True
    AgentSettings.objects.update(dry_run=True)
    tell()
    tasks.send_events()
    assert far.types == ["incident.opened"]


def test_a_drill_is_told_to_nobody(far, hook):
    tell(resource=ResourceRef("host", "web-1", "drill", "d1"))
    tasks.send_events()
    assert (far.got, the().status) == ([], "held")


# --- when it does not get through


@pytest.mark.parametrize("fault", [Answer(500, b"oops"), Answer(503), Answer(408), None], ids=str)
def test_what_may_pass_is_tried_again_under_the_same_id_with_the_same_body(far, hook, fault):
    far.faults.append(Fault("POST", ".*", answer=fault, after=True))
    tell()
    tasks.send_events()
    hook.refresh_from_db()
    assert the().status == "waiting"
    assert hook.failing_since is not None
    assert hook.paused_until > now()
    due_now()
    SignalEvent.objects.update(reason="it has gone on meanwhile", status="diagnosed")
    tasks.send_events()
    first, second = far.got
    assert (the().status, the().attempts) == ("sent", 2)
    assert first.raw == second.raw
    hook.refresh_from_db()
    assert (hook.failing_since, hook.paused_until) == (None, None)


def test_a_webhook_that_asks_for_patience_is_left_alone_for_as_long(far, hook):
    far.faults.append(Fault("POST", ".*", answer=Answer(429, b"slow down", {"Retry-After": "1234"})))
    tell()
    tell()
    tasks.send_events()
    hook.refresh_from_db()
    assert len(far.asked) == 1
    assert 1200 < (hook.paused_until - now()).total_seconds() <= 1234
    tasks.send_events()
    assert len(far.asked) == 1
    assert QueuedTask.objects.filter(dedup_key="send_events", visible_at__gt=now() + timedelta(seconds=1000)).exists()


@pytest.mark.parametrize("asked_for", ["99999999999999999999", "Wed, 21 Oct 2099 07:28:00 GMT", "-5", "²"])
def test_an_absurd_pause_is_not_taken_at_its_word(far, hook, asked_for):
    headers = {"Retry-After": asked_for.encode("latin-1", "replace").decode("latin-1")}
    far.faults.append(Fault("POST", ".*", answer=Answer(429, b"", headers)))
    tell()
    tasks.send_events()
    hook.refresh_from_db()
    assert 7 < (hook.paused_until - now()).total_seconds() <= 3600


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_a_no_is_taken_for_a_no_and_shown(far, hook, status):
    far.faults.append(Fault("POST", ".*", answer=Answer(status, b"token=abc123 is unknown")))
    tell()
    tasks.send_events()
    hook.refresh_from_db()
    assert (the().status, the().answer) == ("failed", f"It answers {status} token=*** is unknown")
    assert hook.last_error == the().answer
    assert send_again(hook) == 1
    tasks.send_events()
    assert (the().status, len(far.got)) == ("sent", 1)


def test_a_redirect_is_not_followed(far, hook):
    with receiver() as elsewhere:
        far.faults.append(Fault("POST", ".*", answer=Answer(307, b"", {"Location": f"{elsewhere.base}/stolen"})))
        tell()
        tasks.send_events()
        assert elsewhere.asked == []
    assert the().status == "failed"
    assert "redirects" in the().answer


def test_of_a_huge_answer_only_the_beginning_is_read_and_kept(far, hook):
    far.reply = Answer(200, b"x" * 50_000_000)
    tell()
    tasks.send_events()
    assert the().status == "sent"
    assert len(the().answer) <= 310


def test_a_far_end_that_is_not_there_is_tried_again(hook):
    OutgoingWebhook.objects.update(url="http://127.0.0.1:9/")
    tell()
    tasks.send_events()
    assert the().status == "waiting"
    assert "cannot be called" in the().answer


def test_a_name_that_does_not_resolve_is_tried_again(hook):
    OutgoingWebhook.objects.update(url="https://nowhere.invalid/")
    tell()
    tasks.send_events()
    assert (the().status, the().answer[:14]) == ("waiting", "nowhere.invali")


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://169.254.169.254/latest/meta-data/", True),
        ("https://[fe80::1]/", True),
        ("https://[::ffff:169.254.169.254]/", True),
        ("http://0xA9FEA9FE/", True),
        ("http://127.0.0.1:1/", False),
        ("http://localhost:1/", False),
    ],
)
def test_what_must_not_be_called_is_not(hook, url, private):
    OutgoingWebhook.objects.update(url=url, private=private)
    tell()
    tasks.send_events()
    assert the().status == "failed"
    assert "is not called" in the().answer


def test_an_event_is_given_up_after_a_day(far, hook):
    far.faults.append(Fault("POST", ".*", answer=Answer(500), times=2))
    tell()
    tasks.send_events()
    OutgoingEvent.objects.update(at=now() - timedelta(days=1))
    due_now()
    tasks.send_events()
    assert the().status == "failed"
    assert "Given up" in the().answer


def test_the_sweep_gives_up_what_is_too_old_or_too_much_and_drops_what_is_over(hook, monkeypatch):
    monkeypatch.setattr(courier, "MOST_WAITING", 2)
    OutgoingWebhook.objects.update(enabled=False)
    now_, day = now(), timedelta(days=1)
    for _ in range(5):
        OutgoingWebhook.objects.update(enabled=True)
        tell()
    OutgoingWebhook.objects.update(enabled=False)
    rows = list(OutgoingEvent.objects.order_by("pk"))
    OutgoingEvent.objects.filter(pk=rows[0].pk).update(status="sent", due_at=None, at=now_ - 31 * day)
    OutgoingEvent.objects.filter(pk=rows[4].pk).update(at=now_ - day, due_at=now_ - day)
    sweep()
    left = dict(OutgoingEvent.objects.order_by("pk").values_list("pk", "status"))
    assert left == {rows[1].pk: "failed", rows[2].pk: "waiting", rows[3].pk: "waiting", rows[4].pk: "failed"}


def test_the_sweep_leaves_alone_what_a_person_has_sent_again_however_old_it_is(hook):
    tell()
    OutgoingEvent.objects.update(status="failed", due_at=None, at=now() - timedelta(days=3))
    send_again(hook)
    sweep()
    assert the().status == "waiting"


def test_the_sweep_takes_up_what_was_left_lying(hook):
    tell()
    QueuedTask.objects.all().delete()
    sweep()
    assert QueuedTask.objects.filter(dedup_key="send_events").count() == 1


def test_one_poisoned_event_does_not_keep_the_others_back(far, hook):
    far.faults.append(Fault("POST", ".*", answer=Answer(500)))
    poisoned = tell()
    other = tell()
    tasks.send_events()
    OutgoingWebhook.objects.update(paused_until=None)
    tasks.send_events()
    assert [body["incident"]["id"] for body in far.bodies] == [other.pk]
    assert OutgoingEvent.objects.get(incident=poisoned).status == "waiting"


def test_a_record_that_cannot_be_told_fails_alone(far, hook):
    broken = tell()
    OutgoingEvent.objects.update(snapshot={})
    good = tell()
    tasks.send_events()
    assert [body["incident"]["id"] for body in far.bodies] == [good.pk]
    assert OutgoingEvent.objects.get(incident=broken).status == "failed"


# --- slow ones, and several workers


@pytest.mark.parametrize("round_s", [20, 0.1])
def test_a_slow_webhook_does_not_hold_up_another(far, hook, round_s, monkeypatch):
    monkeypatch.setattr(courier, "ROUND", timedelta(seconds=round_s))
    go_on = threading.Event()
    with receiver() as slow:
        slow.on_request = lambda moment: (go_on.wait(20), None)[1] if moment == "before" else None
        webhook(slow.base, name="a slow one")
        far.on_request = lambda moment: go_on.set() if moment == "after" and len(far.got) == 3 else None
        for _ in range(3):
            tell()
        tasks.send_events()
        assert go_on.is_set(), "the quick one got all three while the slow one had not answered its first"
        for _ in range(5):
            tasks.send_events()
        assert (len(far.got), len(slow.got)) == (3, 3)


def test_a_second_worker_leaves_it_to_the_first_and_comes_back(far, hook):
    tell()
    QueuedTask.objects.all().delete()
    with connection.copy().cursor() as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('byteport.outgoing', 0))")
        tasks.send_events()
        other.connection.close()
    assert far.got == []
    assert QueuedTask.objects.filter(dedup_key="send_events").count() == 1


def test_an_attempt_of_a_worker_that_died_is_made_again_when_its_time_is_over(far, hook):
    tell()
    OutgoingEvent.objects.update(status="sending", attempts=1, due_at=datetime.now(UTC) + timedelta(minutes=2))
    tasks.send_events()
    assert far.got == []
    due_now()
    tasks.send_events()
    assert (len(far.got), the().status) == (1, "sent")


# --- what people see of it


def test_a_webhook_that_refuses_stands_at_the_top_until_it_takes_one(far, hook):
    assert hand_over(now()).troubles == ()
    far.faults.append(Fault("POST", ".*", answer=Answer(401, b"who?")))
    event = tell()
    tasks.send_events()
    (trouble,) = hand_over(now()).troubles
    assert (trouble.channel, trouble.count, trouble.what) == ("Webhook pager", 1, "event")
    assert (trouble.error, trouble.events) == ("It answers 401 who?", (event.pk,))
    tell()
    tasks.send_events()
    assert hand_over(now()).troubles == ()


def test_a_webhook_that_does_not_answer_stands_there_after_a_quarter_of_an_hour(far, hook):
    far.faults.append(Fault("POST", ".*", answer=Answer(503)))
    tell()
    tasks.send_events()
    assert hand_over(now()).troubles == ()
    (trouble,) = hand_over(now() + timedelta(minutes=16)).troubles
    assert trouble.count == 1


def test_the_metrics_count_what_waits(hook):
    webhook("https://example.com/", "quiet", kinds=[])
    tell()
    tell()
    OutgoingEvent.objects.filter(pk=the().pk).update(status="sent", due_at=None)
    tell()
    samples = {sample.labels["webhook"]: sample.value for sample in health._outgoing().samples}
    assert samples == {"pager": 2, "quiet": 0}


def test_a_long_record_of_what_was_told_is_read_neither_by_the_metrics_nor_by_the_sweep(hook):
    tell()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO outgoing_events (webhook_id, uid, happening, kind, snapshot, at, status)"
            " SELECT %s, gen_random_uuid(), gen_random_uuid(), 'test', '{}', now() - n * interval '1 minute', 'sent'"
            " FROM generate_series(1, 20000) AS n",
            [hook.pk],
        )
        cursor.execute("ANALYZE outgoing_events")
    with CaptureQueriesContext(connection) as asked:
        health._outgoing()
        sweep()
    plans = [plan_of(query["sql"]) for query in asked.captured_queries if "outgoing_events" in query["sql"]]
    assert len(plans) >= 5
    assert not [plan for plan in plans if "Seq Scan on outgoing_events" in plan]
    assert not [plan for plan in plans if "outgoing_events_webhook" in plan]
