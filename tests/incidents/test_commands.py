"""`agent`, `policy`, `incidents`, `incident`, `approve`, `refuse`, `postmortem`. Real: the commands and PostgreSQL.

Not real: the loop does not run, incidents are the rows of `tests.incidents.scenes`; the commands run in this process,
with a text buffer for a terminal (exit codes of whole processes are in tests/byteport/test_cli.py).
"""

import json
import re
import sys
from datetime import datetime, timedelta
from io import StringIO

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from byteport import loop
from byteport.cli import actor
from byteport.core.clock import now
from byteport.models import AuditEntry, QueuedTask
from incidents import policies
from runbooks.models import AgentSettings, Approval, RunbookPolicy
from signals.models import SignalPolicy, Source, TimelineEntry
from signals.policy import forget, rules
from tests.incidents import scenes

pytestmark = pytest.mark.django_db


class Terminal(StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _nothing_is_remembered():
    """What this process keeps of the policies for a few seconds ends with each test."""
    forget()
    yield
    forget()


def run(*args):
    """Exit code, stdout and stderr."""
    out, err = StringIO(), StringIO()
    try:
        call_command(*map(str, args), stdout=out, stderr=err)
    except SystemExit as end:
        return end.code, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def read(*args):
    """What a program gets, of a command that succeeds."""
    code, out, err = run(*args, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    return json.loads(out)


def refused(*args):
    """Why a command was refused; for people and programs it is the same."""
    code, out, err = run(*args)
    assert (code, out) == (1, "")
    assert json.loads(run(*args, "--json")[2]) == {"error": err.rstrip("\n")}
    return err


# --- agent


def test_the_status_counts_what_there_is():
    scenes.planned("escalated")
    scenes.awaiting_approval()
    scenes.incident("resolved")
    scenes.alive("worker", "watch")
    QueuedTask.objects.create(queue="byteport", payload="x")
    Source.objects.create(slug="host", kind="host", last_success_at=now(), last_reading_at=now())
    Source.objects.create(slug="pager", kind="generic", last_error="wrong signature", last_error_at=now())
    status = read("agent", "status")
    assert status["dry_run"] is True
    assert status["incidents"] == {"escalated": 1, "awaiting_approval": 1}
    assert status["processes"] == {"web": 0, "worker": 1, "watch": 1}
    assert (status["queue"]["ready"], status["queue"]["running"]) == (1, 0)
    assert {source["slug"]: source["state"] for source in status["sources"]} == {"host": "ok", "pager": "failing"}
    assert status["sources_total"] == 2
    text = run("agent", "status")[1]
    assert "1 awaiting approval, 1 escalated" in text
    assert "wrong signature" in text
    assert "To do" not in text
    assert "1 worker, 1 watch\n" in text, "the web process tells of itself by answering"
    assert re.search(r" \d+(\.\d)? s\n", text.partition("ago")[2]), "a duration for people"


def test_the_status_says_what_is_missing():
    text = run("agent", "status")[1]
    assert "No worker is alive" in text
    assert "No watcher is alive" in text


def test_json_may_be_asked_for_before_or_after_the_deed():
    assert run("agent", "--json", "status")[1] == run("agent", "status", "--json")[1]


def test_dry_run_is_switched_and_audited():
    assert read("agent", "dry-run", "off") == {"dry_run": False, "paused": False, "paused_reason": ""}
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.target) == (actor(), "dry-run off", "agent")
    assert not AgentSettings.objects.get().dry_run
    assert read("agent", "dry-run", "on")["dry_run"] is True


@pytest.mark.parametrize(
    ("answer", "is_off"), [("y\n", True), ("yes\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_at_a_terminal_dry_run_is_switched_off_only_after_a_yes(monkeypatch, answer, is_off):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    scenes.planned("simulated")
    code, _, err = run("agent", "dry-run", "off")
    assert "1 simulated incident(s) will be looked at afresh" in err
    assert AgentSettings.objects.filter(dry_run=False).exists() is is_off
    assert code == (0 if is_off else 1)


@pytest.mark.parametrize("args", [("off", "--yes"), ("on",)], ids=" ".join)
def test_nobody_is_asked_who_has_said_yes_or_makes_it_safer(monkeypatch, args):
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    assert run("agent", "dry-run", *args)[0] == 0


def test_dry_run_off_wakes_what_was_only_simulated():
    event = scenes.planned("simulated")
    read("agent", "dry-run", "off")
    event.refresh_from_db()
    assert event.due_at is not None


def test_dry_run_that_the_deployment_forces_is_said_and_not_switched_off(settings):
    settings.FORCE_DRY_RUN = True
    AgentSettings.objects.create(pk=1, dry_run=False)
    assert (read("agent", "status")["dry_run"], read("agent", "status")["dry_run_is_forced"]) == (True, True)
    assert "on, kept on by this deployment" in run("agent", "status")[1]
    assert "BYTEPORT_FORCE_DRY_RUN" in refused("agent", "dry-run", "off")
    assert read("agent", "dry-run", "on")["dry_run"] is True


def test_it_is_paused_with_a_reason_and_resumed():
    assert read("agent", "pause", "--why", "a fire") == {"dry_run": True, "paused": True, "paused_reason": "a fire"}
    assert "paused          a fire" in run("agent", "status")[1]
    assert read("agent", "resume") == {"dry_run": True, "paused": False, "paused_reason": ""}
    assert [entry.action for entry in AuditEntry.objects.order_by("pk")] == ["pause", "resume"]


# --- policy


def test_every_policy_is_listed_with_what_differs_from_the_defaults():
    run("policy", "set", "disk_pressure", "clear=70")
    assert [policy["name"] for policy in read("policy", "list")] == policies.names()
    assert re.search(r"^disk_pressure +signal +Disk pressure +clear=70.0 %$", run("policy", "list")[1], re.MULTILINE)


@pytest.mark.parametrize("name", policies.names())
def test_a_policy_shows_value_default_unit_and_meaning(name):
    shown = read("policy", "show", name)
    assert shown["stored"] is False
    for setting in shown["settings"]:
        assert setting["value"] == setting["default"]
        assert setting["help"]
        assert setting["unit"] == "s" or not setting["key"].endswith("_s")
        assert setting["key"] in run("policy", "show", name)[1]


def test_a_threshold_is_in_the_unit_of_its_signal():
    units = {setting["key"]: setting["unit"] for setting in read("policy", "show", "idle_in_transaction")["settings"]}
    assert (units["threshold"], units["sustain_s"], units["enabled"]) == ("sessions", "s", "")


def test_several_fields_are_set_at_once_and_audited():
    changed = read("policy", "set", "cleanup_logs", "cooldown_s=1800", "needs_approval=on", "good_samples=3")
    assert changed == {
        "name": "cleanup_logs",
        "before": {"needs_approval": False, "cooldown_s": 600},
        "after": {"needs_approval": True, "cooldown_s": 1800},
    }
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.target, entry.before, entry.after) == (
        actor(), "policy cleanup_logs", changed["before"], changed["after"],
    )  # fmt: skip
    assert read("policy", "show", "cleanup_logs")["stored"] is True


def test_the_router_sees_a_new_threshold_at_once():
    assert rules()["disk_pressure"].clear == 80
    read("policy", "set", "disk_pressure", "clear=70")
    assert rules()["disk_pressure"].clear == 70


def test_setting_what_is_set_changes_and_audits_nothing():
    read("policy", "set", "cleanup_logs", "dry_run=on")
    assert read("policy", "set", "cleanup_logs", "dry_run=on")["after"] == {}
    assert AuditEntry.objects.count() == 1


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("cleanup_logs", ["cooldown_s=-1"], "cooldown_s: Ensure this value is greater than or equal to 0."),
        ("cleanup_logs", ["good_samples=0"], "good_samples: "),
        ("cleanup_logs", ["dry_run=perhaps"], "dry_run: Say on or off. (On: this runbook stays in dry-run"),
        ("cleanup_logs", ["speed=9"], "cleanup_logs has no speed. It has: enabled, dry_run,"),
        ("cleanup_logs", ["runbook=other"], "cleanup_logs has no runbook."),
        ("disk_pressure", ["clear=99"], "clear: Must not be above the threshold (85)."),
        ("disk_pressure", ["threshold=nan"], "threshold: Enter a number."),
        ("disk_pressure", ["threshold=inf"], "threshold: Enter a number."),
        ("disk_pressure", ["sustain_s="], "sustain_s: This field is required."),
        ("disk_pressure", ["clear=70", "clear=60"], "more than once"),
        ("weather", ["clear=70"], "There is no policy weather. There are: disk_pressure,"),
    ],
)  # fmt: skip
def test_one_wrong_field_and_nothing_is_set(name, wrong, says):
    right = ["enabled=off"]
    assert says in refused("policy", "set", name, *right, *wrong)
    assert not SignalPolicy.objects.exists()
    assert not RunbookPolicy.objects.exists()
    assert not AuditEntry.objects.exists()


def test_every_reason_is_told_not_only_the_first():
    why = refused("policy", "set", "cleanup_logs", "cooldown_s=x", "speed=9", "dry_run=perhaps")
    assert [line.split(":")[0] for line in why.splitlines()] == [
        "cooldown_s",
        "cleanup_logs has no speed. It has",
        "dry_run",
    ]


def test_fields_that_depend_on_each_other_are_set_together():
    assert read("policy", "set", "disk_pressure", "threshold=70", "clear=60", "critical=75")["after"]["clear"] == 60


def test_a_runbooks_dry_run_that_is_switched_off_wakes_what_was_only_simulated():
    read("policy", "set", "cleanup_logs", "dry_run=on")
    event = scenes.planned("simulated")
    read("policy", "set", "cleanup_logs", "dry_run=off")
    event.refresh_from_db()
    assert event.due_at is not None


# --- incidents


def test_incidents_are_listed_the_newest_first_and_narrowed():
    old, new = scenes.incident("resolved"), scenes.planned("escalated")
    assert [line["id"] for line in read("incidents")] == [new.pk, old.pk]
    assert [line["id"] for line in read("incidents", "--status", "open")] == [new.pk]
    assert [line["id"] for line in read("incidents", "--status", "resolved")] == [old.pk]
    assert [line["id"] for line in read("incidents", "--limit", 1)] == [new.pk]
    assert read("incidents", "--signal", "memory_pressure") == []
    with pytest.raises(CommandError, match="invalid choice"):
        run("incidents", "--status", "asleep")


def test_a_line_of_the_list_says_what_where_and_how_bad():
    event = scenes.incident("resolved")
    (line,) = read("incidents")
    assert (line["label"], line["resource"]) == ("/var on web-1", "host/web-1/mount/%2Fvar")
    assert (line["value"], line["unit"], line["resolved_by"]) == (91.0, "%", "byteport")
    assert datetime.fromisoformat(line["detected_at"]) == event.detected_at
    assert re.search(
        rf"^{event.pk} .*resolved by byteport +disk_pressure +/var on web-1 +91 %$", run("incidents")[1], re.MULTILINE
    )


def test_an_empty_list_says_so():
    assert run("incidents") == (0, "There are none.\n", "")


def test_an_incident_is_told_in_full():
    event = scenes.awaiting_approval()
    scenes.gates(event, 1, opt_in="no word")
    scenes.gates(event, 2, dry_run="The agent is in dry-run.")
    scenes.action(event, "journal", "done", "freed 1 MB", result={"bytes": 1000})
    scenes.look(event, 60, 70.0, "good")
    told = read("incident", event.pk)
    assert (told["id"], told["plan_hash"], told["postmortem_final"]) == (event.pk, event.plan_hash, False)
    assert [line["kind"] for line in told["timeline"]] == ["detected", "awaiting_approval"]
    assert {(gate["round"], gate["name"]) for gate in told["gates"] if not gate["allowed"]} == {
        (1, "opt_in"),
        (2, "dry_run"),
    }
    assert [step["action"] for step in told["plan"]["steps"]] == ["host.journal_vacuum", "host.delete_rotated_logs"]
    assert (told["actions"][0]["result"], told["samples"][0]["look"]) == ({"bytes": 1000}, "good")
    assert told["approvals"][0]["approved"] is None
    text = run("incident", event.pk)[1]
    for part in (
        "It is awaiting_approval.",
        "The agent is in dry-run.",
        "freed 1 MB",
        "70 %",
        "nobody has decided",
        event.plan_hash,
    ):
        assert part in text
    assert "no word" not in text  # the round before


def test_an_incident_of_which_little_is_known_is_told_too():
    event = scenes.incident(resource=scenes.VAR, diagnosis={"odd": 1}, value=None, signal="weather")
    assert read("incident", event.pk)["diagnosis"] is None
    assert run("incident", event.pk)[0] == 0


@pytest.mark.parametrize(
    "command", [["incident"], ["approve"], ["refuse", "--why", "no"], ["postmortem"]], ids=" ".join
)
def test_an_incident_that_is_not_there_is_refused(command):
    assert refused(*command, 4711) == "There is no incident 4711.\n"


def test_the_documented_keys_are_those_that_come():
    page = (settings.BASE_DIR / "docs" / "commands.md").read_text(encoding="utf-8")
    event = scenes.awaiting_approval()
    keys = {
        *read("incident", event.pk),
        *read("agent", "status"),
        *read("incidents")[0],
        *read("policy", "show", "disk_pressure"),
    }
    keys |= {*read("postmortem", event.pk), *read("approve", event.pk)}
    assert {key for key in keys if f"`{key}`" not in page} == set()


# --- a person's word


def test_a_plan_is_approved_and_audited():
    event = scenes.awaiting_approval()
    word = read("approve", event.pk)
    assert (word["approved"], word["by"], word["plan_hash"]) == (True, actor(), event.plan_hash)
    assert word["steps"] == ["Vacuum the journal", "Delete rotated logs"]
    assert Approval.objects.get().approved is True
    assert (AuditEntry.objects.get().action, AuditEntry.objects.get().actor) == ("approved", actor())


def test_a_plan_is_refused_with_a_reason():
    event = scenes.awaiting_approval()
    assert "handed to people" in run("refuse", event.pk, "--why", "It is being moved.")[1]
    assert (Approval.objects.get().approved, Approval.objects.get().why) == (False, "It is being moved.")


@pytest.mark.parametrize("args", [[], ["--why", " "]], ids=repr)
def test_nothing_is_refused_without_a_reason(args):
    event = scenes.awaiting_approval()
    with pytest.raises(CommandError):
        run("refuse", event.pk, *args)
    assert Approval.objects.get().approved is None


@pytest.mark.parametrize(("status", "by"), [("escalated", "person"), ("simulated", "itself"), ("detected", "itself")])
def test_what_nobody_else_reports_the_end_of_is_ended_by_a_person(status, by):
    event = scenes.reported(status, signal="alert:Gone")
    assert read("end", event.pk, "--why", "The host is gone.") == {
        "id": event.pk, "by": actor(), "why": "The host is gone.",
    }  # fmt: skip
    loop.advance(event.pk)
    event.refresh_from_db()
    assert (event.status, event.resolved_by, event.postmortem_final) == ("resolved", by, True)
    assert "says that it is over: The host is gone." in event.postmortem_md
    assert (AuditEntry.objects.get().action, AuditEntry.objects.get().target) == ("end", f"incident {event.pk}")
    assert "it is resolved." in refused("end", event.pk, "--why", "again")


@pytest.mark.parametrize("status", ["acting", "verifying", "awaiting_approval", "resolved"])
def test_what_byteport_is_at_work_on_is_not_ended_by_hand(status):
    event = scenes.reported(status)
    assert f"it is {status.replace('_', ' ')}." in refused("end", event.pk, "--why", "x")
    assert not TimelineEntry.objects.filter(kind="ended").exists()


def test_a_plan_is_answered_once():
    event = scenes.awaiting_approval()
    read("approve", event.pk)
    assert "somebody was faster" in refused("refuse", event.pk, "--why", "no")


def test_only_the_plan_that_was_looked_at_is_approved():
    event = scenes.awaiting_approval()
    assert "has changed" in refused("approve", event.pk, "--plan", "0123456789abcdef")
    assert read("approve", event.pk, "--plan", event.plan_hash)["approved"] is True


def test_what_does_not_wait_is_not_approved():
    assert "does not wait for approval: it is escalated" in refused("approve", scenes.planned("escalated").pk)


def test_a_request_that_has_lapsed_is_not_approved():
    event = scenes.awaiting_approval()
    Approval.objects.update(expires_at=now() - timedelta(seconds=1))
    assert "lapsed" in refused("approve", event.pk)


# --- postmortem


def test_a_draft_is_marked_as_one_and_a_final_text_is_as_it_was_written():
    draft = scenes.planned("escalated")
    final = scenes.incident("resolved", postmortem_md="# Written then\n", postmortem_final=True)
    assert "Draft postmortem" in run("postmortem", draft.pk)[1]
    assert run("postmortem", final.pk) == (0, "# Written then\n", "")
    assert read("postmortem", final.pk)["final"] is True


def test_the_page_stands_alone_and_holds_no_script():
    event = scenes.incident("resolved", postmortem_md="# All <script>alert(1)</script>well\n", postmortem_final=True)
    page = run("postmortem", event.pk, "--format", "html")[1]
    assert page.startswith("<!doctype html>")
    assert "<h1>" in page
    assert "<script" not in page


def test_the_document_is_the_one_that_the_console_gives():
    event = scenes.planned("escalated")
    client = Client()
    client.force_login(User.objects.create_user("anna"))
    given = client.get(f"/incidents/{event.pk}/postmortem", headers={"Accept": "application/json"}).json()
    ours = read("postmortem", event.pk)
    assert json.loads(run("postmortem", event.pk, "--format", "json")[1]) == ours
    for key in given:
        assert _same(given[key], ours[key]), key
    assert set(given) == set(ours)


def _same(one, other):
    """Equal, but for how much of a second a time says."""
    if isinstance(one, str) and isinstance(other, str) and re.match(r"\d{4}-\d\d-\d\dT", one):
        return abs(datetime.fromisoformat(one) - datetime.fromisoformat(other)) < timedelta(milliseconds=1)
    return one == other
