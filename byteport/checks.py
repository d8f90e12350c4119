"""System checks: what is misconfigured, found before it hurts, each with an id and a hint.

E001 to E009 and W001 to W009 are about settings, E010 to E019 about runbooks and actions, E020 to E029 about
PostgreSQL, W030 on about the channels by which people are told.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004 (Django's own name)
from django.db import OperationalError, connections
from django.http.request import validate_host

from byteport.core.registry import Registry
from incidents.escalation.channel import CHANNELS, Channel
from runbooks.action import ACTIONS
from runbooks.models import RunbookPolicy
from runbooks.runbook import RUNBOOKS, Runbook
from signals.catalog import CATALOG
from signals.source import SOURCES

MINIMUM_POSTGRES = 16
HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*")
SECRET_KEY_CHARACTERS = 32

AppConfigs = Sequence[AppConfig] | None


# --- settings


@register(Tags.security)
def check_secret_key(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    """That there is one at all, the settings themselves insist on."""
    if len(settings.SECRET_KEY) < SECRET_KEY_CHARACTERS:
        hint = "It encrypts stored secrets. Make one: python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        message = f"BYTEPORT_SECRET_KEY has fewer than {SECRET_KEY_CHARACTERS} characters."
        yield Warning(message, hint=hint, id="byteport.W001")


@register(Tags.security)
def check_exposure(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    if settings.DEBUG:
        hint = "Error pages show settings and source to everybody. Unset BYTEPORT_DEBUG outside of development."
        yield Warning("BYTEPORT_DEBUG is on.", hint=hint, id="byteport.W002")
    if "*" in settings.ALLOWED_HOSTS:
        hint = "Name the hosts by which BytePort is called: a forged Host header must not reach its pages."
        yield Warning("BYTEPORT_ALLOWED_HOSTS allows every host.", hint=hint, id="byteport.W003")


@register
def check_public_url(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    url = _url(settings.PUBLIC_URL)
    if url is None:
        hint = "Set it to the address by which people reach the console, e.g. https://byteport.example.com"
        yield Error(f"BYTEPORT_PUBLIC_URL is no URL: {settings.PUBLIC_URL!r}.", hint=hint, id="byteport.E001")
        return
    host = url.hostname or ""
    if url.scheme == "http" and not is_loopback(host):
        hint = "Passwords and webhook secrets would go over the network in the clear. Put TLS in front and say https://"
        yield Warning(f"BYTEPORT_PUBLIC_URL is without TLS: {settings.PUBLIC_URL}.", hint=hint, id="byteport.W004")
    if not validate_host(f"[{host}]" if ":" in host else host, settings.ALLOWED_HOSTS):
        hint = f"Add {host} to BYTEPORT_ALLOWED_HOSTS, or the links that BytePort sends are answered with 400."
        yield Warning("The host of BYTEPORT_PUBLIC_URL is not an allowed host.", hint=hint, id="byteport.W005")
    yield from _check_proxy(url)


def _check_proxy(url: SplitResult) -> Iterator[CheckMessage]:
    """BytePort itself speaks plain HTTP: behind TLS it has to be told so, or it takes its own forms for forged ones."""
    origin = f"{url.scheme}://{url.netloc}"
    if url.scheme == "https" and not settings.SECURE_PROXY_SSL_HEADER and origin not in settings.CSRF_TRUSTED_ORIGINS:
        hint = "Set BYTEPORT_BEHIND_PROXY=true where a proxy ends TLS and sets X-Forwarded-Proto, or else add"
        hint += f" {origin} to BYTEPORT_TRUSTED_ORIGINS; without either, every form is refused."
        yield Warning(
            "BYTEPORT_PUBLIC_URL is https, but BytePort does not know of a proxy.",
            hint=hint,
            id="byteport.W006",
        )


def _url(text: str) -> SplitResult | None:
    try:
        url = urlsplit(text)
        complete = url.scheme in ("http", "https") and url.hostname and (url.port is None or url.port > 0)
    except ValueError:  # a port that is none, or half a bracket
        return None
    return url if complete and not re.search(r"\s", text) else None


def is_loopback(host: str) -> bool:
    """Whether only this machine itself is meant."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@register
def check_queue(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    lease_s, timeout_s, workers = (
        settings.TASK_LEASE_S,
        settings.TASK_TIMEOUT_S,
        cast("int", settings.Q_CLUSTER["workers"]),
    )
    if lease_s <= timeout_s:
        hint = "Make BYTEPORT_TASK_LEASE_S the greater one, or a task that still runs is given to a second worker."
        message = f"A task's lease ({lease_s} s) does not outlive its time-out ({timeout_s} s)."
        yield Error(message, hint=hint, id="byteport.E002")
    if timeout_s < 1:
        hint = "Set BYTEPORT_TASK_TIMEOUT_S to the seconds that one stage may take (240 unless set)."
        yield Error(f"A task's time-out is {timeout_s} s.", hint=hint, id="byteport.E003")
    if workers < 1:
        hint = "Set BYTEPORT_WORKERS to 1 or more, or no incident ever goes on."
        yield Error(f"BYTEPORT_WORKERS is {workers}.", hint=hint, id="byteport.E004")


@register
def check_host_name(app_configs: AppConfigs, **kwargs: Any) -> list[CheckMessage]:
    if HOST_NAME.fullmatch(settings.HOST_NAME):
        return []
    hint = (
        "Set BYTEPORT_HOST_NAME to the name by which this host's readings are to be known: letters, digits, - and dots."
    )
    return [Error(f"{settings.HOST_NAME!r} is no host name.", hint=hint, id="byteport.E005")]


# --- runbooks and actions


@register
def check_registries(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    broken = [*_broken("source", SOURCES), *_broken("runbook", RUNBOOKS), *_broken("action", ACTIONS)]
    broken += _broken("channel", CHANNELS)
    yield from broken
    if not broken:
        yield from runbook_faults(RUNBOOKS, ACTIONS)
        yield from switch_faults(RUNBOOKS)


def _broken(kind: str, registry: Registry[Any]) -> Iterator[CheckMessage]:
    try:
        len(registry)
    except (ValueError, ImportError) as error:
        hint = "Remove or repair the package that was installed last."
        yield Error(f"The {kind}s cannot be loaded: {error}", hint=hint, id="byteport.E010")


def runbook_faults(runbooks: Mapping[str, Runbook], actions: Iterable[str]) -> Iterator[CheckMessage]:
    """What is wrong with the installed runbooks, as a whole and one by one."""
    known_actions = frozenset(actions)
    for signal, count in Counter(runbook.signal for runbook in runbooks.values()).items():
        if count > 1:
            rivals = ", ".join(sorted(name for name, runbook in runbooks.items() if runbook.signal == signal))
            hint = "Uninstall all but one of them: which one would treat it must not be left to chance."
            yield Error(f"{count} runbooks are for {signal}: {rivals}.", hint=hint, id="byteport.E011")
    for runbook in runbooks.values():
        yield from _faults_of(runbook, known_actions)


def switch_faults(runbooks: Iterable[str]) -> Iterator[CheckMessage]:
    unknown = sorted((settings.RUNBOOKS_ON or frozenset()).difference(runbooks))
    if unknown:
        hint = f"There are: {', '.join(runbooks)}. Whatever is not listed is switched off."
        yield Error(f"BYTEPORT_RUNBOOKS names unknown runbooks: {', '.join(unknown)}.", hint=hint, id="byteport.E016")


def _faults_of(runbook: Runbook, actions: frozenset[str]) -> Iterator[CheckMessage]:
    name, hint = runbook.name, "Correct the runbook, or uninstall its package."
    unknown = sorted(set(runbook.actions) - actions)
    if unknown:
        yield Error(f"{name} uses unknown actions: {', '.join(unknown)}.", hint=hint, id="byteport.E012")
    if runbook.signal not in CATALOG:
        known = f"The signals are: {', '.join(CATALOG)}."
        yield Error(f"{name} is for {runbook.signal}, which is no signal.", hint=known, id="byteport.E013")
    if name in CATALOG:
        rename = "Rename it: `policy show NAME` takes both, and must mean one."
        yield Error(f"The runbook {name} bears the name of a signal.", hint=rename, id="byteport.E014")
    shortest = shortest_verification_s()
    if runbook.verify_deadline_s < shortest:
        message = (
            f"{name} has to be verified within {runbook.verify_deadline_s} s, and by default it takes {shortest} s."
        )
        yield Error(
            message,
            hint="Raise its verify_deadline_s: no run of it could count as resolved.",
            id="byteport.E015",
        )


def shortest_verification_s() -> int:
    """The time from the last action to the last good look that is needed, by the defaults of a policy."""
    policy = RunbookPolicy()
    return policy.verify_delay_s + policy.verify_interval_s * (policy.good_samples - 1)


# --- channels


@register
def check_channels(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    """None of these keeps BytePort from running: what it cannot tell, it keeps."""
    if not list(_broken("channel", CHANNELS)):
        for channel in CHANNELS.values():
            yield from channel_faults(channel)


def channel_faults(channel: Channel) -> Iterator[CheckMessage]:
    """What keeps a channel that somebody has begun to set up from telling anybody."""
    setup = channel.setup()
    if not setup.given:
        return
    if setup.missing:
        message = f"{channel.title} is only half set up: {', '.join(setup.missing)} missing."
        hint = "Set it too, or unset the others. Until then nobody is told that way. See docs/escalation.md."
        yield Warning(message, hint=hint, id="byteport.W030")
    for fault in setup.faults:
        hint = f"Until it is corrected, nobody is told by {channel.title}. See docs/escalation.md."
        yield Warning(f"{channel.title}: {fault}", hint=hint, id="byteport.W031")


# --- PostgreSQL


@register(Tags.database)
def check_postgres(
    app_configs: AppConfigs, databases: Iterable[str] | None = None, **kwargs: Any
) -> Iterable[CheckMessage]:
    for alias in databases or ():
        try:
            version = connections[alias].pg_version  # type: ignore[attr-defined]
        except OperationalError as error:
            hint = "Look whether it runs and whether DATABASE_URL names it: manage.py doctor"
            message = f"PostgreSQL cannot be reached: {str(error).strip().splitlines()[0]}"
            yield Error(message, hint=hint, id="byteport.E020")
        else:
            yield from version_faults(version)


def version_faults(version: int) -> Iterator[CheckMessage]:
    """`version` as PostgreSQL numbers itself: 160004 is 16.4."""
    if version < MINIMUM_POSTGRES * 10_000:
        message = f"PostgreSQL {version // 10_000} is too old: BytePort needs {MINIMUM_POSTGRES} or later."
        hint = "Upgrade the server, or unset DATABASE_URL to use the PostgreSQL that BytePort brings along."
        yield Error(message, hint=hint, id="byteport.E021")
