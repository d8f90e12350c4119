"""A leak from detection to postmortem. Real: PostgreSQL, the loop with every stage and gate, hostctl, a process that
grows, its memory, its end and its successor, unit files, oom_score_adj. Not real: systemctl, a stand-in on PATH that
ends and starts the process; the unit that the process belongs to; and how much memory the host has, so that a small
process is enough to fill it."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from byteport import loop
from byteport.clients.hosts.annotations import file_remedy, from_file
from byteport.clients.hosts.protocol import HostAnswer, HostRequest
from byteport.clients.hosts.reader import read
from byteport.core.clock import now
from byteport.core.resource import ResourceRef
from byteport.core.ways import WAYS, Way
from byteport.models import Host
from runbooks import hostctl
from runbooks.models import AgentAction, AgentSettings, RunbookPolicy
from signals.consumers import consumer_readings
from signals.ingest import ingest
from signals.models import SignalEvent
from signals.reading import Reading, State
from tests.runbooks.residents import MB, Balloon, Residents, residents_of
from tests.runbooks.test_hostctl import House

pytestmark = pytest.mark.django_db
SHOP, WEB = "/system.slice/shop.service", "/system.slice/web.service"
MEMORY = ResourceRef("host", "web-1", "memory", "memory")
TOTAL = 100 * MB


class SmallHost:
    """A host of 100 MB, whose memory in use is what its two units really hold; reached by hostctl in this process."""

    def __init__(self, residents: Residents) -> None:
        self.residents, self.house = residents, residents.house
        self.leaky, self.web = residents.balloon(SHOP, 24 * MB), residents.balloon(WEB, 5 * MB)
        self.web.set_oom_score_adj(500)
        self.drop_in = residents.unit("shop.service", self.leaky.pid)
        residents.unit("web.service", self.web.pid)
        (self.house.etc / "annotations").write_text("byteport.io/auto-remediate: memory\n")
        self.meminfo = residents.proc / "meminfo"
        self.meminfo.unlink()

    def run(self, request: HostRequest, *, timeout_s: float) -> HostAnswer:
        self.tell_memory()
        scope = {"kind": request.scope.kind, "id": request.scope.id}
        asked = {"verb": request.verb, "scope": scope, "args": request.args, "dry_run": request.dry_run}
        answer = hostctl.run({**asked, "action_id": request.action_id}, self.house.roots)
        return HostAnswer(answer["status"], answer["reason"], answer["result"], answer.get("replayed", False))

    def tell_memory(self) -> None:
        used = sum(int(line.split()[1]) for path in self.residents.proc.glob("*/status") for line in lines_of(path))
        available = max(TOTAL // 1000 - used, 0)
        self.meminfo.write_text(f"MemTotal: {TOTAL // 1000} kB\nMemAvailable: {available} kB\nSwapTotal: 0 kB\n")

    def annotations(self, scope, *, timeout_s):
        return from_file(self, "web-1", scope, timeout_s=timeout_s)

    def remedy(self, words: str) -> str:
        return file_remedy("web-1", words)

    def look(self) -> None:
        """As the host source does while memory is scarce."""
        seen = read("web-1", "consumers")["consumers"]
        ingest(consumer_readings(MEMORY, seen, now(), "host"))

    def leak(self) -> None:
        """It grows by 60 MB in four looks."""
        for _ in range(4):
            self.look()
            self.leaky.grow(15 * MB)

    def percent(self) -> float:
        return float(read("web-1", "memory")["percent"])


def lines_of(status: Path) -> list[str]:
    try:
        return [line for line in status.read_text().splitlines() if line.startswith("RssAnon:")]
    except OSError:
        return []  # it has ended


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHost]:
    AgentSettings.objects.create(dry_run=False)
    RunbookPolicy.objects.create(
        runbook="rolling_restart", cooldown_s=0, verify_delay_s=0, verify_interval_s=0, verify_deadline_s=30,
        good_samples=2,
    )  # fmt: skip
    monkeypatch.setattr(hostctl, "LOOK_S", 0.02)
    with residents_of(House(tmp_path)) as residents:
        small = SmallHost(residents)
        way = Way(name="standin", title="Stand-in", transport=lambda address: small)
        monkeypatch.setitem(vars(WAYS), "_found", {**WAYS, "standin": way})
        Host.objects.create(name="web-1", way="standin")
        yield small


def fire() -> SignalEvent:
    at = now()
    ingest([Reading(signal="memory_pressure", resource=MEMORY, at=at, value=93.0, state=State.FIRING, source="host")])
    return SignalEvent.objects.get()


def advanced(event: SignalEvent, *statuses: str) -> SignalEvent:
    for _ in range(40):
        event.refresh_from_db()
        if event.status in statuses:
            return event
        loop.advance(event.pk)
    raise AssertionError(f"still {event.status}: {event.reason}")


def actions(event: SignalEvent) -> dict[str, str]:
    return dict(AgentAction.objects.filter(event=event).values_list("step", "status"))


def test_a_leak_is_found_by_its_growth_restarted_verified_and_written_up(host: SmallHost) -> None:
    host.leak()
    assert host.percent() > 90
    event = advanced(fire(), "resolved", "escalated")
    assert (event.status, event.resolved_by) == ("resolved", "byteport"), event.reason
    assert actions(event) == {"protect": "done", "restart": "done", "put_back": "done"}
    assert len(host.residents.restarts) == 1
    assert host.percent() < 85
    assert host.web.oom_score_adj == 500
    protected = event.actions.get(step="protect").result["adjusted"]
    assert [(one["pid"], one["before"], one["after"]) for one in protected] == [(host.web.pid, 500, 200)]
    restarted = event.actions.get(step="restart").result
    assert restarted["percent_before"] > 90
    assert restarted["rss_before_bytes"] > 80 * MB
    assert restarted["rss_after_bytes"] < 20 * MB
    for words in ("shop.service may leak, as a guess", "a guess", "not for page cache", "rss before: 8", "rss after"):
        assert words in event.postmortem_md, words


def test_a_service_that_is_big_and_does_not_grow_is_left_alone(host: SmallHost, monkeypatch) -> None:
    monkeypatch.setattr("runbooks.library.rolling_restart.LOOK_PAUSE_S", 0.05)
    host.leaky.grow(60 * MB)
    event = advanced(fire(), "resolved", "escalated")
    assert event.status == "escalated"
    assert "size alone says nothing" in event.reason
    assert host.residents.restarts == []


def test_without_the_label_nothing_is_touched_and_people_are_told_what_is_missing(host: SmallHost) -> None:
    host.drop_in.unlink()
    host.residents.unit("shop.service", host.leaky.pid, label=None)
    host.leak()
    event = advanced(fire(), "escalated")
    assert "does not carry the label byteport.restart=safe" in event.reason
    assert "Suggested limit for shop.service" in event.reason
    assert actions(event) == {}
    assert host.web.oom_score_adj == 500


def test_without_the_word_on_the_host_the_label_alone_is_not_enough(host: SmallHost) -> None:
    (host.house.etc / "annotations").write_text("byteport.io/auto-remediate: disk\n")
    host.leak()
    event = advanced(fire(), "escalated")
    assert "opt_in" in event.reason
    assert (actions(event), host.residents.restarts) == ({}, [])


def test_a_label_that_is_taken_back_in_the_last_moment_stops_the_restart_and_scores_are_put_back(
    host: SmallHost,
) -> None:
    host.leak()
    event = advanced(fire(), "acting")
    loop.advance(event.pk)
    assert host.web.oom_score_adj == 200
    host.drop_in.write_text("[Service]\n")
    event = advanced(event, "escalated", "resolved")
    assert event.status == "escalated"
    assert "does not carry the label" in event.reason
    assert actions(event) == {"protect": "done", "restart": "refused", "put_back": "done"}
    assert (host.residents.restarts, host.web.oom_score_adj) == ([], 500)


def test_a_unit_that_somebody_restarted_meanwhile_is_left_alone(host: SmallHost) -> None:
    host.leak()
    event = advanced(fire(), "acting")
    other = host.residents.balloon(SHOP)
    host.residents.unit("shop.service", other.pid)
    host.leaky.end()
    event = advanced(event, "escalated", "resolved")
    assert event.actions.get(step="restart").status == "refused"
    assert "another main process" in event.reason
    assert host.residents.restarts == []


def test_scores_are_put_back_also_when_the_plan_is_cut_off_between_two_steps(host: SmallHost) -> None:
    host.leak()
    event = advanced(fire(), "acting")
    loop.advance(event.pk)
    assert host.web.oom_score_adj == 200
    (host.house.etc / "annotations").unlink()
    event = advanced(event, "escalated")
    loop.advance(event.pk)
    assert host.web.oom_score_adj == 500
    assert actions(event) == {"protect": "done", "put_back": "done"}
    assert host.residents.restarts == []


def test_scores_are_put_back_by_the_worker_that_comes_after_one_that_died(host: SmallHost, monkeypatch) -> None:
    """It dies right after hostctl has lowered them: its action's row still says `started`."""
    monkeypatch.setattr(loop, "LEASE", timedelta(seconds=0))
    host.leak()
    event = advanced(fire(), "acting")

    class Died(BaseException):
        pass

    def died(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr("runbooks.act._complete", died)
        with pytest.raises(Died):
            loop.advance(event.pk)
    assert host.web.oom_score_adj == 200
    event = advanced(event, "resolved", "escalated")
    assert actions(event) == {"protect": "done", "restart": "done", "put_back": "done"}
    assert (event.status, host.web.oom_score_adj) == ("resolved", 500)


def test_in_dry_run_everything_is_told_and_nothing_touched(host: SmallHost) -> None:
    AgentSettings.objects.update(dry_run=True)
    host.leak()
    event = advanced(fire(), "simulated")
    assert event.actions.get(step="restart").message == "would restart shop.service"
    assert event.actions.get(step="protect").message.endswith("500 → 200")
    assert (host.residents.restarts, host.web.oom_score_adj) == ([], 500)


def test_a_real_balloon_is_what_the_tests_take_it_for() -> None:
    made = Balloon(30 * MB)
    try:
        assert 30 * MB < int(lines_of(Path(f"/proc/{made.pid}/status"))[0].split()[1]) * 1024 < 45 * MB
    finally:
        made.end()
