"""The rows that are planted at the start. Real: PostgreSQL, and for the race, connections of their own."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import connection
from django_q.models import Schedule

from byteport import seeds
from byteport.models import Host
from runbooks.models import AgentSettings, RunbookPolicy
from runbooks.policy import default_policy
from runbooks.runbook import RUNBOOKS
from signals.catalog import CATALOG
from signals.models import SignalPolicy, Source
from signals.policy import default_rule, rule_of
from tests.standin import Platform, installed


@pytest.mark.django_db
def test_there_is_a_row_for_every_policy_and_each_says_the_defaults():
    seeds.plant()
    assert {policy.signal: rule_of(policy) for policy in SignalPolicy.objects.all()} == {
        name: default_rule(signal) for name, signal in CATALOG.items()
    }
    for name, runbook in RUNBOOKS.items():
        stored, default = RunbookPolicy.objects.get(pk=name), default_policy(runbook)
        assert {f.name: getattr(stored, f.name) for f in stored._meta.fields} == {
            f.name: getattr(default, f.name) for f in default._meta.fields
        }
    assert AgentSettings.objects.get().dry_run
    assert set(Source.objects.values_list("slug", "kind")) == {("host", "host"), ("postgres", "postgres_sessions")}


@pytest.mark.django_db
def test_the_sweep_is_scheduled_for_every_minute():
    seeds.plant()
    schedule = Schedule.objects.get()
    assert (schedule.func, schedule.schedule_type, schedule.minutes) == ("byteport.tasks.sweep", Schedule.MINUTES, 1)
    assert schedule.repeats < 0


@pytest.mark.django_db
def test_a_container_is_not_planted_as_a_host(settings):
    settings.LOCAL_HOST = False
    seeds.plant()
    assert not Host.objects.exists()


@pytest.mark.django_db
def test_in_a_pod_its_cluster_is_planted_also_without_a_token_for_it(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    seeds.plant()
    assert Source.objects.get(slug="kubernetes").kind == "kubernetes_events"


@pytest.mark.django_db
def test_what_an_operator_has_set_stays():
    seeds.plant()
    AgentSettings.objects.update(dry_run=False, max_per_hour=7)
    SignalPolicy.objects.filter(pk="disk_pressure").update(clear=70)
    RunbookPolicy.objects.update(enabled=False)
    Source.objects.update(enabled=False, options={"a": 1})
    Schedule.objects.update(minutes=5)
    seeds.plant()
    agent, source = AgentSettings.objects.get(), Source.objects.get(slug="host")
    assert (agent.dry_run, agent.max_per_hour) == (False, 7)
    assert SignalPolicy.objects.get(pk="disk_pressure").clear == 70
    assert not RunbookPolicy.objects.filter(enabled=True).exists()
    assert (source.enabled, source.options) == (False, {"a": 1})
    assert Schedule.objects.get().minutes == 5


@pytest.mark.django_db
def test_a_runbook_that_is_installed_later_gets_its_row():
    seeds.plant()
    with installed(Platform()):
        seeds.plant()
    assert RunbookPolicy.objects.filter(pk="standin").exists()


@pytest.mark.django_db(transaction=True)
def test_several_at_once_plant_everything_once():
    start = Barrier(8)

    def plant(_):
        try:
            connection.ensure_connection()
            start.wait(30)
            seeds.plant()
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(plant, range(8)))
        # Where only the schedule is missing, no other row makes one wait for the other.
        Schedule.objects.all().delete()
        list(pool.map(plant, range(8)))
    assert Schedule.objects.count() == AgentSettings.objects.count() == 1
    assert Source.objects.count() == 2
    assert SignalPolicy.objects.count() == len(CATALOG)
