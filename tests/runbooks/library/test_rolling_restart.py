"""rolling_restart's decisions, which are pure. What it does to real processes is in
tests/runbooks/test_rolling_restart_for_real.py, test_hostctl_*.py and tests/crash, and the whole of it in
tests/byteport/test_drill.py."""

import json
import shlex
from datetime import UTC, datetime
from typing import Any

import pytest

from byteport.core.resource import ResourceRef
from runbooks.library.rolling_restart import RUNBOOK
from runbooks.runbook import CannotPlan, Diagnosis, EventView, Look, Plan, StepKind, Timing
from signals.reading import Reading

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TIMING = Timing(verify_delay_s=30, verify_interval_s=10, verify_deadline_s=120, good_samples=3, clear=85)
GB = 10**9
HEX = "0123456789abcdef" * 4
LEAK = [(n * 60.0, 5 * GB + n * 0.3 * GB) for n in range(20)]
GUESS = LEAK[:3]
STEADY = [(n * 60.0, 20.0 * GB) for n in range(20)]
MAY = {"pid": 70, "started": 7000, "title": "", "refusal": "", "unlabelled": False}
NOT_LABELLED = {**MAY, "pid": None, "refusal": "shop.service does not carry the label", "unlabelled": True}


def event(**more: Any) -> EventView:
    known = {
        "id": 1, "signal": "memory_pressure", "resource": ResourceRef("host", "web-1", "memory", "memory"),
        "detail": "", "severity": "warning", "value": 93.0, "threshold": 90.0, "detected_at": NOW, "source": "host",
    }  # fmt: skip
    return EventView(**{**known, **more})


def holder(name: str = "shop.service", kind: str = "unit", pid: int = 10, **more: Any) -> dict[str, Any]:
    biggest = {"pid": pid, "started": 1000 + pid, "comm": "shop", "rss_bytes": 10 * GB}
    known = {
        "kind": kind, "name": name, "runtime": "", "kubernetes": False, "rss_bytes": 10 * GB, "swap_bytes": 0,
        "limit_bytes": None, "oom_kills": None, "processes": 3, "biggest": biggest, "oom_score_adj": 0, "critical": "",
        "course": STEADY,
    }  # fmt: skip
    return {**known, **more}


def facts(*holders: dict[str, Any], **memory: Any) -> dict[str, Any]:
    measured = {
        "total_bytes": 64 * GB, "available_bytes": 4 * GB, "percent": 93.7, "cached_bytes": 3 * GB, "shmem_bytes": GB,
        "unreclaimable_bytes": GB, "huge_pages_bytes": 0, "swap_total_bytes": 8 * GB, "swap_free_bytes": 2 * GB,
        "pressure": {"some_avg10": 12.5, "full_avg10": 3.0}, "swapped_in_bytes_s": 5e6, **memory,
    }  # fmt: skip
    return {"memory": measured, "holders": list(holders), "others": {"consumers": 41, "rss_bytes": 2 * GB}}


LEAKY = holder(course=LEAK, restart=MAY)
POSTGRES = holder("postgresql.service", pid=20, rss_bytes=20 * GB, critical="postgres (20) is a database")
WEB = holder("web.service", pid=30, rss_bytes=4 * GB)


def diagnosed(*holders: dict[str, Any], view: EventView | None = None, **memory: Any) -> Diagnosis:
    return RUNBOOK.diagnose(view or event(), facts(*holders, **memory))


def planned(*holders: dict[str, Any], view: EventView | None = None, **memory: Any) -> Plan | CannotPlan:
    view = view or event()
    return RUNBOOK.plan(view, diagnosed(*holders, view=view, **memory), TIMING)


def refused(*holders: dict[str, Any], **more: Any) -> str:
    plan = planned(*holders, **more)
    assert isinstance(plan, CannotPlan)
    return plan.reason


# --------------------------------------------------------------------------------------------------- the plan


def test_bystanders_are_protected_the_leak_is_restarted_and_the_protection_put_back():
    plan = planned(POSTGRES, LEAKY, WEB)
    assert isinstance(plan, Plan)
    assert [(step.key, step.action, step.kind) for step in plan.steps] == [
        ("protect", "host.adjust_oom_score", StepKind.PREPARE),
        ("restart", "host.restart_unit", StepKind.FIX),
        ("put_back", "host.restore_oom_score", StepKind.PUT_BACK),
    ]
    assert plan.steps[0].params == {"processes": [[30, 1030]]}, "neither the database nor the one that leaks"
    assert plan.steps[1].params == {"unit": "shop.service", "pid": 70, "started": 7000}
    assert {step.action for step in plan.steps} <= set(RUNBOOK.actions)


def test_a_container_is_restarted_through_its_runtime():
    leaky = holder(HEX, "container", runtime="docker", course=LEAK, restart={**MAY, "title": "shop-web"})
    plan = planned(leaky)
    assert isinstance(plan, Plan)
    [step] = plan.steps
    assert step.action == "host.restart_container"
    assert step.params == {"runtime": "docker", "container": HEX, "pid": 70, "started": 7000}
    assert step.summary == "Restart the container shop-web"


def test_at_most_five_bystanders_are_protected_and_pods_are_the_kubelets():
    others = [holder(f"web-{n}.service", pid=30 + n) for n in range(8)]
    pod = holder(HEX, "container", pid=90, kubernetes=True)
    safe = holder("safe.service", pid=91, oom_score_adj=-600)
    plan = planned(LEAKY, pod, safe, *others)
    assert isinstance(plan, Plan)
    assert plan.steps[0].params == {"processes": [[30 + n, 1030 + n] for n in range(5)]}


def test_size_is_no_reason_to_restart():
    reason = refused(holder(rss_bytes=50 * GB, restart=MAY))
    assert "size alone says nothing" in reason


def test_the_fastest_leak_is_the_one_and_nobody_else_is_restarted_in_its_place():
    slower = holder("slow.service", pid=40, course=[(at, size / 3) for at, size in LEAK], restart=MAY)
    plan = planned(slower, LEAKY)
    assert isinstance(plan, Plan)
    assert next(step for step in plan.steps if step.kind is StepKind.FIX).params["unit"] == "shop.service"
    assert "does not carry the label" in refused(slower, {**LEAKY, "restart": NOT_LABELLED})


def test_what_is_critical_is_not_restarted_even_if_it_leaks_and_says_it_may():
    leaky = {**POSTGRES, "course": LEAK, "restart": MAY}
    assert "is a database" in refused(leaky, WEB)
    [why] = RUNBOOK.prohibitions(event(), diagnosed(leaky))
    assert "never restarted" in why
    assert RUNBOOK.prohibitions(event(), diagnosed(LEAKY, POSTGRES)) == ()


def test_a_lone_process_is_not_restarted():
    alone = {**MAY, "refusal": "it belongs to no unit and no container, so nothing would start it again"}
    assert "nothing would start it again" in refused(holder("python3", "process", course=LEAK, restart=alone))


def test_who_was_not_asked_whether_it_may_be_restarted_is_not():
    assert "was not asked" in refused(holder(course=LEAK))


def test_whoever_takes_over_is_told_host_swap_consumers_and_a_limit():
    reason = refused(POSTGRES, {**LEAKY, "restart": NOT_LABELLED}, WEB)
    for fact in ("memory on web-1", "6.0 GB of 8.0 GB swap", "postgresql.service 20.0 GB", "web.service", "7168 MiB"):
        assert fact in reason, fact


# ------------------------------------------------------------------------------------------------ the diagnosis


def test_the_evidence_says_what_was_seen():
    text = " ".join(diagnosed(POSTGRES, LEAKY, holder("x.service", course=[])).evidence)
    for fact in (
        "93.7 % of 64.0 GB in use", "page cache 2.0 GB", "tmpfs and shared memory 1.0 GB", "6.0 GB of 8.0 GB swap",
        "12.5 % of the time", "shop.service holds 10.0 GB in 3 processes; it has grown by 5.7 GB in 19 min, over 20",
        "postgresql.service holds 20.0 GB", "it has not grown over 20 looks", "too few looks (0)", "41 others",
    ):  # fmt: skip
        assert fact in text, fact


def test_true_exhaustion_is_told_by_swap_and_pressure():
    assert "true exhaustion, not page cache" in diagnosed(LEAKY).inference
    calm = {"pressure": {"some_avg10": 0.0, "full_avg10": 0.0}, "swapped_in_bytes_s": 0.0}
    assert "tasks do not wait for it yet" in diagnosed(LEAKY, **calm).inference
    assert "true exhaustion" in diagnosed(LEAKY, **{**calm, "swapped_in_bytes_s": 2e6}).inference
    assert "no PSI here" in diagnosed(LEAKY, pressure=None, swap_total_bytes=0).inference


def test_page_cache_is_no_reason_to_restart_anything():
    """Datadog and CloudWatch may count it as used."""
    cached = {"percent": 41.0, "available_bytes": 37 * GB}
    diagnosis = diagnosed(LEAKY, view=event(source="datadog"), **cached)
    assert "This is page cache, not exhaustion" in diagnosis.inference
    assert diagnosis.confident
    assert "Nothing is to be restarted" in refused(LEAKY, view=event(source="datadog"), **cached)


def test_what_has_eased_by_itself_is_not_called_page_cache():
    assert "eased by itself" in refused(LEAKY, percent=70.0)


def test_a_leak_seen_over_many_looks_is_no_guess_and_over_few_it_is():
    sure, guess = diagnosed(LEAKY), diagnosed({**LEAKY, "course": GUESS})
    assert sure.confident
    assert "shop.service leaks" in sure.inference
    assert not guess.confident
    assert "as a guess" in guess.inference
    assert isinstance(planned({**LEAKY, "course": GUESS}), Plan)


def test_facts_that_went_through_the_database_are_the_same():
    again = json.loads(json.dumps(facts(POSTGRES, LEAKY, WEB)))
    assert RUNBOOK.diagnose(event(), again).evidence == diagnosed(POSTGRES, LEAKY, WEB).evidence


# ------------------------------------------------------------------------------------------------- verification


@pytest.mark.parametrize(("value", "look"), [(84.9, Look.GOOD), (85.0, Look.BAD), (99.0, Look.BAD)])
def test_a_look_is_good_below_85(value, look):
    reading = Reading(signal="memory_pressure", resource=event().resource, at=NOW, value=value)
    judged = RUNBOOK.judge(event(), reading, TIMING)
    assert (judged.look, judged.hopeless) == (look, False)


def test_no_reading_is_inconclusive():
    assert RUNBOOK.judge(event(), None, TIMING).look is Look.INCONCLUSIVE


# ------------------------------------------------------------------------------------------------ manual steps


def commands(*holders: dict[str, Any]) -> list[str]:
    steps = RUNBOOK.advise(event(), diagnosed(*holders))
    assert len(steps) == 3
    return [step.command for step in steps]


def test_the_manual_steps_name_the_unit_a_limit_and_how_to_opt_it_in():
    look, limit, restart = commands({**LEAKY, "restart": NOT_LABELLED})
    assert "--sort=-rss" in look
    assert limit == "systemctl set-property -- shop.service MemoryMax=7168M"
    assert "systemctl try-restart -- shop.service" in restart
    assert "X-Byteport-Restart=safe" in restart
    assert "daemon-reload" in restart


@pytest.mark.parametrize(
    ("kind", "runtime", "expected"),
    [
        ("container", "docker", f"docker restart {HEX}"),
        ("container", "podman", f"podman restart {HEX}"),
        ("container", "crictl", f"crictl stop {HEX}"),
        ("container", "", "kill -TERM 10"),
        ("process", "", "kill -TERM 10"),
    ],
)
def test_the_manual_steps_are_for_what_it_is(kind, runtime, expected):
    name = "python3" if kind == "process" else HEX
    assert commands(holder(name, kind, runtime=runtime, course=LEAK))[2] == expected


@pytest.mark.parametrize(
    "name", ["x; rm -rf ~.service", "$(reboot).service", "-rf.service", "a'b.service", "`a`.service"]
)
def test_the_manual_steps_quote_hostile_names(name):
    for command in commands(holder(name, course=LEAK, restart=NOT_LABELLED))[1:]:
        assert any(word in (name, f"/etc/systemd/system/{name}.d") for word in shlex.split(command, comments=True))
        assert shlex.quote(name) in command


def test_without_a_diagnosis_there_are_still_three():
    assert len(RUNBOOK.advise(event(), None)) == 3
    assert len(RUNBOOK.advise(event(), Diagnosis(evidence=(), inference=""))) == 3
    assert len(commands()) == 3
