"""What comes round by itself. Real: PostgreSQL, each part of the round."""

from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django_q.models import Task

from byteport import tasks
from byteport.core.clock import now

pytestmark = pytest.mark.django_db


def test_a_part_of_the_round_that_fails_keeps_no_other_from_its_turn(monkeypatch):
    turns = []

    def fails():
        raise OSError("no way")

    monkeypatch.setattr(tasks, "ROUND", (fails, lambda: turns.append("first"), fails, lambda: turns.append("last")))
    with pytest.raises(ExceptionGroup) as raised:
        tasks.sweep()
    assert turns == ["first", "last"]
    assert len(raised.value.exceptions) == 2


def test_failed_tasks_are_kept_for_a_month():
    for name, days in (("old", 31), ("new", 29)):
        at = now() - timedelta(days=days)
        Task.objects.create(id=name, name=name, func="byteport.tasks.sweep", started=at, stopped=at, success=False)
    tasks.sweep()
    assert [task.name for task in Task.objects.all()] == ["new"]


def test_sessions_that_have_ended_are_dropped():
    for key, left in (("over", -timedelta(seconds=1)), ("goes-on", timedelta(days=1))):
        Session.objects.create(session_key=key, session_data="", expire_date=now() + left)
    tasks.sweep()
    assert [session.session_key for session in Session.objects.all()] == ["goes-on"]
