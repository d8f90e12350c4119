"""The console through Django's test client. Real: PostgreSQL, every view, template, query and middleware.

Not real: the loop does not run; incidents are the rows of `tests.incidents.scenes`.
"""

import re
from datetime import timedelta
from html import escape

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from byteport.models import AuditEntry, Heartbeat
from incidents import queries
from incidents.trend import NO_SAMPLES
from runbooks.models import AgentSettings, Approval, RunbookPolicy
from signals.models import Sample, SignalEvent, Source, SourceStream
from tests.incidents import scenes

pytestmark = pytest.mark.django_db
PAGES = ("/", "/incidents/", "/postmortems/", "/agent/", "/runbooks/", "/runbooks/cleanup_logs/", "/top/")
HTMX = {"HX-Request": "true"}


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("ada"))
    return client


@pytest.fixture
def onlooker(client: Client) -> Client:
    client.force_login(User.objects.create_user("guest"))
    return client


def page(client: Client, path: str, **headers: str) -> str:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 200
    return answer.content.decode()


def said(client: Client, path: str, **data: str) -> str:
    """What the page that follows a change says."""
    answer = client.post(path, data, follow=True)
    return " ".join(str(message) for message in answer.context["messages"])


# --- who may see what


@pytest.mark.parametrize("path", [*PAGES, "/incidents/1/", "/agent/dry-run/"])
def test_every_page_needs_a_login(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 302
    assert answer["Location"].startswith("/login/?next=")


def test_a_fragment_takes_an_ended_session_to_the_login_and_back(client: Client) -> None:
    answer = client.get("/", headers={**HTMX, "HX-Current-URL": "http://testserver/incidents/?group=all"})
    assert answer["HX-Redirect"] == "/login/?next=%2Fincidents%2F%3Fgroup%3Dall"


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/incidents/{}/approve/", {}),
        ("/incidents/{}/refuse/", {"why": "no"}),
        ("/agent/dry-run/", {"to": "off"}),
        ("/agent/pause/", {"why": "because"}),
        ("/agent/resume/", {}),
    ],
)
def test_who_is_no_operator_changes_nothing(onlooker: Client, path: str, data: dict[str, str]) -> None:
    event = scenes.awaiting_approval()
    answer = onlooker.post(path.format(event.pk), {"plan_hash": event.plan_hash, **data})
    assert answer.status_code == 403
    assert "a role that allows it" in answer.content.decode()
    assert Approval.objects.get().approved is None
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize("path", ["/", "/incidents/{}/", "/agent/", "/runbooks/"])
def test_who_is_no_operator_sees_no_buttons_that_change_things(onlooker: Client, path: str) -> None:
    event = scenes.awaiting_approval()
    AgentSettings.objects.create(pk=1, paused=True)
    shown = page(onlooker, path.format(event.pk))
    own = {reverse("theme"), reverse("logout")}
    actions = {part.split('"')[0] for part in shown.split('<form method="post" action="')[1:]}
    assert actions == own
    assert "/agent/dry-run/" not in shown


@pytest.mark.parametrize("path", ["/incidents/1/approve/", "/incidents/1/refuse/", "/agent/pause/", "/agent/resume/"])
def test_nothing_is_changed_by_a_get(operator: Client, path: str) -> None:
    assert operator.get(path).status_code == 405


def test_a_change_needs_the_csrf_token() -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.create_superuser("ada"))
    answer = strict.post("/agent/pause/", {"why": "because"})
    assert answer.status_code == 403
    assert "Nothing was changed" in answer.content.decode()
    assert not AgentSettings.objects.filter(paused=True).exists()


def test_a_change_leads_back_to_our_own_pages_only(operator: Client) -> None:
    there = operator.post("/agent/pause/", {"why": "x", "next": "/incidents/?group=all"})
    assert there["Location"] == "/incidents/?group=all"
    away = operator.post("/agent/resume/", {"next": "https://evil.example/"})
    assert away["Location"] == "/agent/"


def test_scripts_come_from_here_alone(operator: Client) -> None:
    answer = operator.get("/")
    assert "script-src 'self'" in answer["Content-Security-Policy"]
    assert "<script>" not in answer.content.decode()
    assert " onclick" not in answer.content.decode()


# --- the overview


def test_what_needs_a_person_comes_first_and_the_critical_before_the_rest(operator: Client) -> None:
    scenes.incident("escalated", ResourceRef("host", "h", "mount", "/worst"), severity="critical")
    scenes.incident("escalated", ResourceRef("host", "h", "mount", "/bad"))
    scenes.incident("verifying", ResourceRef("host", "h", "mount", "/active"))
    scenes.incident("simulated", ResourceRef("host", "h", "mount", "/simulated"))
    scenes.incident("resolved", ResourceRef("host", "h", "mount", "/done"))
    scenes.awaiting_approval(ResourceRef("host", "h", "mount", "/waits"))
    shown = page(operator, "/")
    places = [shown.index(f"/{name} on h") for name in ("waits", "worst", "bad", "active", "simulated", "done")]
    assert places == sorted(places)


def test_an_empty_overview_says_what_it_waits_for_and_how_to_see_the_loop(operator: Client) -> None:
    shown = page(operator, "/")
    assert "Nothing needs you." in shown
    assert "manage.py drill disk_pressure" in shown


def test_it_says_loudly_when_no_worker_or_watcher_is_alive_and_what_to_do(operator: Client) -> None:
    shown = page(operator, "/incidents/")
    assert "No worker is alive." in shown
    assert "manage.py worker" in shown
    assert "Nothing is being watched." in shown
    scenes.alive("worker", "watch")
    assert "No worker is alive." not in page(operator, "/incidents/")
    assert "Nothing is being watched." not in page(operator, "/incidents/")


def test_a_process_that_fell_silent_is_shown_as_gone(operator: Client) -> None:
    scenes.alive("worker")
    Heartbeat.objects.update(seen_at=now() - timedelta(minutes=5))
    shown = page(operator, "/")
    assert "No worker is alive." in shown
    assert "Gone" in shown
    assert "5 min ago" in shown


def test_dry_run_and_pause_stand_on_every_page(operator: Client) -> None:
    AgentSettings.objects.create(pk=1, dry_run=True, paused=True, paused_reason="load balancers")
    for path in PAGES:
        shown = page(operator, path)
        assert "Dry-run is on." in shown
        assert "Reason: load balancers" in shown


def test_the_week_counts_by_whom_and_how_fast(operator: Client) -> None:
    for by, minutes in (("byteport", 2), ("byteport", 4), ("person", 60)):
        at = now() - timedelta(days=2)
        scenes.incident("resolved", detected_at=at, resolved_at=at + timedelta(minutes=minutes), resolved_by=by)
    old = now() - timedelta(days=9)
    scenes.incident("resolved", detected_at=old, resolved_at=old, resolved_by="itself")
    week = queries.week(now())
    assert week.count == {"byteport": 2, "person": 1, "itself": 0}
    assert week.mean_s["byteport"] == 180
    assert week.overall_mean_s == 22 * 60


def test_the_weeks_figures_are_read_from_an_index_alone(operator: Client) -> None:
    with connection.cursor() as cursor, CaptureQueriesContext(connection) as asked:
        for other_way in ("seqscan", "bitmapscan"):  # as good with a table as small as this one
            cursor.execute(f"SET LOCAL enable_{other_way} = off")
        queries.week(now())
        cursor.execute(f"EXPLAIN {asked[-1]['sql']}")
        plan = " ".join(line for (line,) in cursor.fetchall())
    assert "Index Only Scan using events_resolved" in plan


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"last_success_at": 5}, "ok"),
        ({"last_success_at": 900}, "late"),
        ({}, "late"),
        ({"last_success_at": 90, "last_error_at": 10, "last_error": "no route"}, "failing"),
        ({"last_success_at": 10, "last_error_at": 90, "last_error": "no route"}, "ok"),
        ({"enabled": False}, "off"),
    ],
)
def test_a_source_is_as_well_as_its_latest_attempt(fields: dict[str, object], state: str) -> None:
    at = now()
    times = {name: at - timedelta(seconds=s) for name, s in fields.items() if isinstance(s, int) and s > 1}
    Source.objects.all().delete()
    Source.objects.create(slug="host", kind="host", **{**fields, **times})
    assert [health.state for health in queries.source_health(at).listed] == [state]


@pytest.mark.django_db
def test_of_what_goes_on_there_is_a_way_to_all(operator: Client) -> None:
    for _ in range(queries.SHOWN):
        scenes.incident("detected")
    assert "All that are open" not in page(operator, "/")
    scenes.incident("detected")
    assert '<a href="/incidents/?group=open">All that are open</a>' in page(operator, "/")


def test_the_lag_of_a_source_that_cannot_be_read_grows() -> None:
    read = now() - timedelta(hours=1)
    Source.objects.create(
        slug="dog", kind="datadog", last_success_at=read, last_reading_at=read - timedelta(minutes=2), last_error="away"
    )
    (health,) = queries.source_health(read + timedelta(hours=1)).listed
    assert health.measured_lag_s == timedelta(minutes=62).total_seconds()


def test_the_sources_that_fail_come_first() -> None:
    at = now()
    Source.objects.create(slug="a", kind="host", last_success_at=at)
    Source.objects.create(slug="b", kind="generic", last_error="refused", last_error_at=at)
    assert [health.source.slug for health in queries.source_health(at).listed] == ["b", "a"]


def test_of_many_sources_those_that_fail_are_never_cut_away(operator: Client) -> None:
    at = now()
    ago = at - timedelta(hours=1)
    Source.objects.all().delete()
    Source.objects.bulk_create(
        [
            *(Source(slug=f"a-{n:03}", kind="generic", last_success_at=at) for n in range(queries.SOURCES_SHOWN)),
            Source(slug="b-off", kind="generic", enabled=False, last_error="gone", last_error_at=at),
            Source(slug="b-silent", kind="generic"),
            Source(slug="b-well-again", kind="generic", last_error="gone", last_error_at=ago, last_success_at=at),
            Source(slug="y-late", kind="host", last_success_at=ago),
            Source(slug="z-failing", kind="generic", last_error="gone", last_error_at=at, last_success_at=ago),
            Source(slug="z-never-well", kind="generic", last_error="gone", last_error_at=at),
        ]
    )
    with CaptureQueriesContext(connection) as asked:
        sources = queries.source_health(at)
    assert len(asked) == 2, "one query for the sources, one for their streams"
    first = [(health.source.slug, health.state) for health in sources.listed[:4]]
    assert first == [("z-failing", "failing"), ("z-never-well", "failing"), ("y-late", "late"), ("a-000", "ok")]
    assert (len(sources.listed), sources.more) == (queries.SOURCES_SHOWN, 6)
    assert "6 more are not listed" in page(operator, "/")
    assert "All 106 sources" in page(operator, "/")


def test_of_many_streams_those_that_fail_are_never_cut_away() -> None:
    at, last = now(), queries.STREAMS_SHOWN
    source = Source.objects.create(slug="clusters", kind="kubernetes")
    SourceStream.objects.bulk_create(
        SourceStream(source=source, name=f"{n:03}/pods", error="gone" if n == last else "", reported_at=at)
        for n in range(last + 1)
    )
    (clusters,) = (health for health in queries.source_health(at).listed if health.source == source)
    assert [stream.name for stream in clusters.streams[:2]] == [f"{last}/pods", "000/pods"]


def test_the_overview_costs_the_same_however_much_there_is(operator: Client) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as captured:
            page(operator, "/")
        return len(captured)

    def a_bit_of_everything() -> None:
        scenes.awaiting_approval()
        for status in ("escalated", "verifying", "simulated", "resolved"):
            scenes.planned(status)

    a_bit_of_everything()
    once = cost()
    for _ in range(5):
        a_bit_of_everything()
    assert cost() == once


# --- approve and refuse


def test_an_operator_approves_the_very_plan_that_was_shown(operator: Client) -> None:
    event = scenes.awaiting_approval()
    assert event.plan_hash in page(operator, "/")
    words = said(operator, f"/incidents/{event.pk}/approve/", plan_hash=event.plan_hash)
    assert "You approved the plan" in words
    decided = Approval.objects.get()
    assert (decided.approved, decided.decided_by) == (True, "ada")
    assert AuditEntry.objects.get().actor == "ada"


def test_a_plan_that_has_changed_since_is_not_approved(operator: Client) -> None:
    event = scenes.awaiting_approval()
    for plan_hash in ("another", ""):
        words = said(operator, f"/incidents/{event.pk}/approve/", plan_hash=plan_hash)
        assert "has changed since it was shown" in words
    assert Approval.objects.get().approved is None


def test_an_incident_is_ended_with_a_reason_and_by_those_alone_who_may(operator: Client) -> None:
    event = scenes.reported("escalated")
    assert "End the incident" in page(operator, f"/incidents/{event.pk}/")
    assert "Say why it is over" in said(operator, f"/incidents/{event.pk}/end/", why=" ")
    assert "ends within seconds" in said(operator, f"/incidents/{event.pk}/end/", why="The host is gone.")
    event.refresh_from_db()
    assert event.cleared_at is not None
    assert "End the incident" not in page(operator, f"/incidents/{event.pk}/")


def test_whoever_may_only_look_is_offered_no_end(onlooker: Client) -> None:
    assert "End the incident" not in page(onlooker, f"/incidents/{scenes.planned('escalated').pk}/")


def test_a_refusal_carries_its_reason(operator: Client) -> None:
    event = scenes.awaiting_approval()
    said(operator, f"/incidents/{event.pk}/refuse/", plan_hash=event.plan_hash, why="backup is running")
    decided = Approval.objects.get()
    assert (decided.approved, decided.why) == (False, "backup is running")


def test_a_refusal_without_a_reason_is_not_taken(operator: Client) -> None:
    event = scenes.awaiting_approval()
    assert "Say why" in said(operator, f"/incidents/{event.pk}/refuse/", plan_hash=event.plan_hash, why="  ")
    assert Approval.objects.get().approved is None


@pytest.mark.parametrize("pk", [404, 10**30])
def test_approving_what_is_not_there_is_a_message_not_a_fault(operator: Client, pk: int) -> None:
    answer = operator.post(f"/incidents/{pk}/approve/", {"plan_hash": "x", "next": "/"}, follow=True)
    assert answer.status_code == 200
    assert "There is no incident" in answer.content.decode()


def test_somebody_was_faster(operator: Client) -> None:
    event = scenes.awaiting_approval()
    said(operator, f"/incidents/{event.pk}/approve/", plan_hash=event.plan_hash)
    shown = page(operator, f"/incidents/{event.pk}/")
    assert "Approve plan" not in shown
    assert "ada approved it" in shown
    words = said(operator, f"/incidents/{event.pk}/refuse/", plan_hash=event.plan_hash, why="late")
    assert "lapsed, or somebody was faster" in words


# --- the list


def test_the_list_pages_by_id_without_gap_or_twin(operator: Client) -> None:
    made = [scenes.incident("resolved").pk for _ in range(queries.PAGE * 2 + 7)]
    seen: list[int] = []
    address = "?group=all"
    while address:
        answer = operator.get(f"/incidents/{address}")
        seen += [event.pk for event in answer.context["page"].events]
        address = answer.context["older"]
    assert seen == sorted(made, reverse=True)


@pytest.mark.parametrize("query", ["group=all", "group=resolved", "group=all&q=web", "group=open&severity=critical"])
def test_the_list_neither_counts_nor_skips_rows(operator: Client, query: str) -> None:
    for _ in range(3):
        scenes.incident("resolved")
    with CaptureQueriesContext(connection) as captured:
        page(operator, f"/incidents/?{query}")
    listing = [each["sql"] for each in captured if 'ORDER BY "signal_events"."id" DESC' in each["sql"]]
    assert listing
    assert all("OFFSET" not in sql and "COUNT(" not in sql and "LIMIT" in sql for sql in listing)


def test_a_narrowed_list_looks_through_so_many_and_offers_to_look_further(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "WINDOW", 5)
    wanted = scenes.incident("resolved", ResourceRef("host", "rare", "mount", "/"))
    for _ in range(7):
        scenes.incident("resolved")
    first = operator.get("/incidents/?group=all&q=rare")
    assert list(first.context["page"].events) == []
    assert "Look further back" in first.content.decode()
    second = operator.get(f"/incidents/{first.context['older']}")
    assert list(second.context["page"].events) == [wanted]
    assert not second.context["older"]


def test_each_group_shows_its_own(operator: Client) -> None:
    made = {status: scenes.incident(status).pk for status in ("acting", "escalated", "simulated", "resolved")}
    made["awaiting_approval"] = scenes.awaiting_approval().pk

    def listed(group: str) -> set[str]:
        found = {event.pk for event in operator.get(f"/incidents/?group={group}").context["page"].events}
        return {status for status, pk in made.items() if pk in found}

    assert listed("open") == {"acting", "escalated", "simulated", "awaiting_approval"}
    assert listed("person") == {"escalated", "awaiting_approval"}
    assert listed("simulated") == {"simulated"}
    assert listed("resolved") == {"resolved"}
    assert listed("all") == set(made)


@pytest.mark.parametrize("search", ["/var", "%2Fvar", "WEB-1", "#{pk}", "{pk}"])
def test_a_resource_is_found_as_people_write_it_or_by_number(operator: Client, search: str) -> None:
    wanted = scenes.incident("detected", ResourceRef("host", "web-1", "mount", "/var"))
    scenes.incident("detected", ResourceRef("host", "db-7", "mount", "/srv"))
    found = operator.get("/incidents/", {"q": search.format(pk=wanted.pk)}).context["page"].events
    assert [event.pk for event in found] == [wanted.pk]


def test_filters_combine_and_stay_in_the_address(operator: Client) -> None:
    wanted = scenes.incident("detected", severity="critical", signal="cpu_saturation")
    scenes.incident("detected", severity="warning", signal="cpu_saturation")
    scenes.incident("detected", severity="critical")
    answer = operator.get("/incidents/?signal=cpu_saturation&severity=critical")
    assert [event.pk for event in answer.context["page"].events] == [wanted.pk]
    assert "?group=resolved&amp;signal=cpu_saturation&amp;severity=critical" in answer.content.decode()


@pytest.mark.parametrize(
    "query",
    [
        "before=x",
        "before=-1",
        f"before={10**40}",
        "group=../..",
        "severity=%00",
        "q=%00",
        "q=%FF",
        "signal=%00",
    ],
)
def test_a_mangled_address_still_shows_a_list(operator: Client, query: str) -> None:
    scenes.incident("escalated")
    assert "Disk pressure" in page(operator, f"/incidents/?{query}")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("group=open", "No incident is open."),
        ("group=person", "Nothing needs a person."),
        ("group=all&q=nowhere", "No incident matches."),
        ("group=all", "No incident yet."),
    ],
)
def test_an_empty_list_says_why_and_what_next(operator: Client, query: str, words: str) -> None:
    assert words in page(operator, f"/incidents/?{query}")


# --- one incident


def test_the_trend_is_drawn_where_samples_were_kept_and_else_a_sentence(operator: Client) -> None:
    event = scenes.incident("escalated")
    without = page(operator, f"/incidents/{event.pk}/")
    assert (without.count(NO_SAMPLES), 'class="trend"' in without) == (1, False)
    Sample.objects.create(fingerprint=event.fingerprint, at=event.detected_at, value=91.0)
    drawn = page(operator, f"/incidents/{event.pk}/")
    assert (drawn.count(NO_SAMPLES), 'class="trend"' in drawn) == (0, True)


def test_evidence_is_told_apart_from_inference_and_a_guess_is_called_one(operator: Client) -> None:
    shown = page(operator, f"/incidents/{scenes.planned('diagnosed').pk}/")
    seen, made_of_it = shown.index("What was seen"), shown.index("What BytePort makes of it")
    assert seen < shown.index("42 rotated logs: 6.3 GB.") < made_of_it < shown.index("6.3 GB can be freed.")
    assert "A guess" in shown


def test_the_latest_round_of_gates_is_open_and_the_earlier_ones_folded(operator: Client) -> None:
    event = scenes.planned("simulated")
    scenes.gates(event, 1, opt_in="Not opted in to `disk`.")
    scenes.gates(event, 2, dry_run="The agent is in dry-run.")
    shown = page(operator, f"/incidents/{event.pk}/")
    folded = shown.index('<details class="fold" id="round-1">')
    assert shown.index("The agent is in dry-run.") < folded < shown.index("Not opted in to <code>disk</code>.")
    assert "1 refused" in shown


def test_a_dry_run_reads_as_what_would_have_been_done(operator: Client) -> None:
    event = scenes.planned("simulated")
    scenes.action(event, "journal", "simulated", "would free it", dry_run=True, result={"freed_bytes": 1_500_000_000})
    shown = page(operator, f"/incidents/{event.pk}/")
    assert "Would have" in shown
    assert "1.5 GB" in shown


def test_the_story_runs_by_time_across_timeline_actions_and_looks(operator: Client) -> None:
    event = scenes.planned("resolved")
    scenes.action(event, "journal", "done", "Freed a lot.")
    scenes.look(event, 60, 71.0, "good")
    lines = operator.get(f"/incidents/{event.pk}/").context["story"]
    assert [line.title for line in lines] == ["Detected", "Done: Step journal", "Good look", "Resolved"]


@pytest.mark.parametrize(
    ("status", "entered", "states"),
    [
        ("detected", (), ["done", "now", "todo", "todo", "todo"]),
        ("diagnosed", (), ["done", "done", "now", "todo", "todo"]),
        ("awaiting_approval", (), ["done", "done", "waiting", "todo", "todo"]),
        ("acting", (), ["done", "done", "now", "todo", "todo"]),
        ("verifying", ("acting",), ["done", "done", "done", "now", "todo"]),
        ("resolved", ("acting", "verifying"), ["done", "done", "done", "done", "done"]),
        ("escalated", ("acting", "verifying"), ["done", "done", "done", "failed", "failed"]),
        ("escalated", (), ["done", "done", "failed", "skipped", "failed"]),
        ("simulated", (), ["done", "done", "would", "skipped", "would"]),
    ],
)
def test_the_progress_shows_how_far_it_came(
    operator: Client, status: str, entered: tuple[str, ...], states: list[str]
) -> None:
    event = scenes.incident(status) if status == "detected" else scenes.planned(status)
    for kind in entered:
        event.timeline.create(at=event.detected_at, actor="byteport", kind=kind, message="")
    shown = operator.get(f"/incidents/{event.pk}/").context["stages"]
    assert [stage.state for stage in shown] == states


def test_what_is_for_information_only_does_not_say_that_it_is_about_to_be_treated(operator: Client) -> None:
    kept, treated = scenes.incident(signal="alert:Note", severity="info"), scenes.incident(severity="info")
    text = page(operator, f"/incidents/{kept.pk}/")
    for word in (
        "No runbook",
        "For information",
        "There is nothing to diagnose.",
        "Nothing was done.",
        "is no plan to",
    ):
        assert word in text
    assert not re.search(r"\byet\b", text)
    assert "Looking for the cause" in page(operator, f"/incidents/{treated.pk}/")


def test_the_budgets_say_their_times_in_the_unit_that_they_are_shown_in(operator: Client) -> None:
    text = page(operator, "/agent/")
    assert "The time within which ineffective fixes are counted." in text
    assert "Seconds" not in text


def test_a_long_label_is_folded_and_there_in_full(operator: Client) -> None:
    event = scenes.incident(labels={"short": "s" * 200, "long": "x" * 4096})
    text = page(operator, f"/incidents/{event.pk}/")
    assert "<dd>" + "s" * 200 + "</dd>" in text
    assert "<summary>" + "x" * 99 + "…</summary>" + "x" * 4096 in text


def test_an_escalated_incident_gives_three_steps_with_their_commands(operator: Client) -> None:
    event = scenes.planned("escalated", ResourceRef("host", "web-1", "mount", "/srv/my data"))
    answer = operator.get(f"/incidents/{event.pk}/")
    assert len(answer.context["manual_steps"]) == 3
    assert answer.content.decode().count("data-copy=") == 3
    assert escape("'/srv/my data'") in answer.content.decode()


def test_while_byteport_is_at_it_nobody_is_told_to_do_it_by_hand(operator: Client) -> None:
    assert "What you can do now" not in page(operator, f"/incidents/{scenes.planned('acting').pk}/")


@pytest.mark.parametrize("broken", [{"plan": {"steps": 7}}, {"diagnosis": ["x"]}, {"resource": "no reference"}])
def test_a_record_that_cannot_be_read_hides_only_itself(operator: Client, broken: dict[str, object]) -> None:
    event = scenes.planned("escalated")
    SignalEvent.objects.filter(pk=event.pk).update(**broken)
    assert "It is escalated." in page(operator, f"/incidents/{event.pk}/")


@pytest.mark.parametrize("pk", ["404", str(10**30)])
def test_an_unknown_incident_is_not_found(operator: Client, pk: str) -> None:
    answer = operator.get(f"/incidents/{pk}/")
    assert answer.status_code == 404
    assert "Not found" in answer.content.decode()


def test_a_complete_record_is_not_asked_for_again(operator: Client) -> None:
    assert "data-poll" in operator.get(f"/incidents/{scenes.incident('acting').pk}/", headers=HTMX).content.decode()
    over = scenes.incident("resolved", postmortem_final=True)
    assert "data-poll" not in operator.get(f"/incidents/{over.pk}/", headers=HTMX).content.decode()


@pytest.mark.parametrize("path", ["/", "/incidents/", "/incidents/{}/", "/agent/"])
def test_htmx_gets_the_live_part_alone(operator: Client, path: str) -> None:
    address = path.format(scenes.incident("acting").pk)
    whole, part = page(operator, address), operator.get(address, headers=HTMX).content.decode()
    assert "<html" in whole
    assert "<html" not in part
    assert len(part) < len(whole)


# --- the agent


def test_the_confirmation_says_what_switching_dry_run_off_would_do(operator: Client) -> None:
    scenes.planned("simulated")
    scenes.planned("simulated")
    shown = page(operator, "/agent/dry-run/")
    assert "2 simulated incidents" in shown
    assert "Act by itself" in shown
    assert AgentSettings.objects.filter(dry_run=False).count() == 0


def test_a_runbook_whose_policy_stays_in_dry_run_takes_nothing_up_again(operator: Client) -> None:
    RunbookPolicy.objects.update_or_create(
        runbook="cleanup_logs", defaults={"dry_run": True, "cooldown_s": 1, "verify_deadline_s": 1}
    )
    scenes.planned("simulated")
    shown = page(operator, "/agent/dry-run/")
    assert "No simulated incident lasts" in shown
    assert "Only simulate, by its own policy" in shown


def test_dry_run_is_switched_and_audited(operator: Client) -> None:
    assert "Dry-run is off" in said(operator, "/agent/dry-run/", to="off")
    assert AgentSettings.objects.get().dry_run is False
    assert "Dry-run is on" in said(operator, "/agent/dry-run/", to="on")
    assert AgentSettings.objects.get().dry_run is True
    assert [entry.action for entry in AuditEntry.objects.all()] == ["dry-run on", "dry-run off"]


def test_dry_run_that_the_deployment_forces_is_said_on_every_page_and_not_switched_off(
    operator: Client, settings
) -> None:
    settings.FORCE_DRY_RUN = True
    AgentSettings.objects.create(pk=1, dry_run=False)
    shown = page(operator, "/agent/")
    assert "kept on by this deployment" in shown
    assert "Switch dry-run" not in shown
    assert "Switch off" not in shown
    assert "BYTEPORT_FORCE_DRY_RUN" in said(operator, "/agent/dry-run/", to="off")
    assert operator.get("/agent/dry-run/").url == "/agent/"


def test_a_runbook_that_the_deployment_switches_off_says_so(operator: Client, settings) -> None:
    settings.RUNBOOKS_ON = frozenset()
    assert "Switched off by this deployment" in page(operator, "/runbooks/")
    assert "Switched off by this deployment" in page(operator, "/runbooks/cleanup_logs/")
    assert "this deployment has it switched off" in page(operator, "/agent/dry-run/")


def test_dry_run_is_not_switched_by_an_unclear_word(operator: Client) -> None:
    assert "on or off" in said(operator, "/agent/dry-run/", to="maybe")
    assert not AgentSettings.objects.filter(dry_run=False).exists()


def test_a_pause_needs_a_reason_and_lasts_until_it_is_resumed(operator: Client) -> None:
    assert "Say why" in said(operator, "/agent/pause/", why="")
    said(operator, "/agent/pause/", why="moving racks")
    assert AgentSettings.objects.get().paused_reason == "moving racks"
    said(operator, "/agent/resume/")
    assert AgentSettings.objects.get().paused is False
    shown = page(operator, "/agent/")
    assert shown.count("moving racks") == 2  # from and to, in the audit trail


def test_runbooks_show_their_policy_permissions_and_documentation(operator: Client) -> None:
    assert "cleanup_logs" in page(operator, "/runbooks/")
    shown = page(operator, "/runbooks/cleanup_logs/")
    assert "host: delete_rotated_logs" in shown
    assert "10 min" in shown
    assert operator.get("/runbooks/nonsense/").status_code == 404


def test_the_theme_is_kept_in_a_cookie_and_only_a_theme_is(client: Client) -> None:
    client.post("/theme/", {"theme": "dark", "next": "/login/"})
    assert 'data-theme="dark"' in page(client, "/login/")
    client.post("/theme/", {"theme": '"><script>', "next": "/login/"})
    assert 'data-theme="dark"' in page(client, "/login/")


# --- names from outside


HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>`'"


def test_names_from_outside_are_shown_and_never_obeyed(operator: Client) -> None:
    resource = ResourceRef("host", HOSTILE, "mount", HOSTILE)
    hostile = {"reason": HOSTILE, "detail": HOSTILE, "source": HOSTILE, "labels": {HOSTILE: HOSTILE}}
    event = scenes.planned("escalated", resource, **hostile)
    SignalEvent.objects.filter(pk=event.pk).update(
        diagnosis={"evidence": [HOSTILE], "inference": HOSTILE, "facts": {HOSTILE: HOSTILE}}, signal=HOSTILE
    )
    scenes.gates(event, 1, opt_in=HOSTILE)
    scenes.action(event, HOSTILE, "done", HOSTILE, result={HOSTILE: HOSTILE})
    event.timeline.create(at=now(), actor=HOSTILE, kind=HOSTILE, message=HOSTILE)
    AgentSettings.objects.create(pk=1, paused=True, paused_reason=HOSTILE)
    AuditEntry.objects.create(actor=HOSTILE, action=HOSTILE, target=HOSTILE, before={HOSTILE: HOSTILE}, after={})
    Source.objects.create(slug="bad", kind=HOSTILE, last_error=HOSTILE, last_error_at=now())
    for path in ("/", "/incidents/", f"/incidents/{event.pk}/", "/agent/", "/agent/dry-run/"):
        shown = page(operator, path)
        assert "<script>alert" not in shown
        assert "<img src=x" not in shown
    assert "&lt;script&gt;alert(1)" in page(operator, f"/incidents/{event.pk}/")


def test_a_request_that_is_not_taken_says_what_it_may_be(operator: Client) -> None:
    foreign = operator.get("/", headers={"Host": "byteport.example.com"})
    large = operator.post("/agent/dry-run/", {"confirm": "x" * 1_100_000})
    for refused in (foreign, large):
        assert refused.status_code == 400
        assert "BYTEPORT_ALLOWED_HOSTS" in refused.content.decode()
        assert "1 MB" in refused.content.decode()
