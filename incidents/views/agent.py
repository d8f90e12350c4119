"""The agent as a whole: dry-run, pause, budgets, and what operators have changed."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from byteport.core.units import human_duration
from incidents import operate, queries
from incidents.roles import Deed
from incidents.views.page import actor, carry_out, go_back, only_for, show, signed_in
from runbooks.guards import FORCED_DRY_RUN
from runbooks.models import AgentSettings
from runbooks.policy import agent_settings

# What the figures of the settings are called here; the switches are shown apart from them.
TITLES = {
    "max_concurrent": "At once in a fleet",
    "max_per_hour": "An hour in a fleet",
    "max_per_neighbourhood_hour": "An hour on a host or namespace",
    "storm_percent": "Storm brake, share (%)",
    "storm_minimum": "Storm brake, at least",
    "refire_window_s": "Counts as fired again within",
    "ineffective_limit": "Ineffective fixes, at most",
    "ineffective_window_s": "Ineffective fixes, counted over",
    "approval_ttl_s": "A plan waits for approval for",
}


@require_safe
@signed_in
def agent(request: HttpRequest) -> HttpResponse:
    return show(request, "agent", {"budgets": budgets(agent_settings()), "trail": queries.audit_trail()})


def budgets(settings: AgentSettings) -> list[tuple[str, str, str]]:
    """Each figure of the settings: its name, its value, and what it does."""
    helps = {field.name: str(field.help_text) for field in AgentSettings._meta.concrete_fields}
    return [(title, _value(settings, name), _without_unit(helps[name])) for name, title in TITLES.items()]


def _without_unit(text: str) -> str:
    """The admin asks for seconds; here a value says its own unit."""
    return text.removeprefix("Seconds. ").replace("Seconds ", "The time ", 1)


def _value(settings: AgentSettings, name: str) -> str:
    value = getattr(settings, name)
    return human_duration(value) if name.endswith("_s") else str(value)


@require_http_methods(["GET", "HEAD", "POST"])
@only_for(Deed.OPERATE)
def dry_run(request: HttpRequest) -> HttpResponse:
    """Asked for: what would change. Posted: changes it."""
    if request.method == "POST":
        return _switch_dry_run(request, request.POST.get("to", ""))
    if agent_settings().dry_run_is_forced:
        messages.error(request, FORCED_DRY_RUN)
        return redirect("agent")
    rows = queries.runbook_rows()
    return show(request, "dry_run", {"rows": rows, "afresh": queries.looked_at_afresh(rows)})


def _switch_dry_run(request: HttpRequest, to: str) -> HttpResponse:
    if to not in ("on", "off"):
        messages.error(request, "Say whether dry-run shall be on or off.")
        return redirect("agent-dry-run")
    done = (
        "Dry-run is on: BytePort changes nothing any more."
        if to == "on"
        else "Dry-run is off: BytePort acts from now on, within its gates."
    )
    carry_out(request, lambda: operate.set_dry_run(to == "on", actor=actor(request)), done)
    return go_back(request, "agent")


@require_POST
@only_for(Deed.OPERATE)
def pause(request: HttpRequest) -> HttpResponse:
    why = request.POST.get("why", "").strip()
    if not why:
        messages.error(request, "Say why BytePort is paused: everybody sees it while the pause lasts.")
        return go_back(request, "agent")
    done = "BytePort is paused: no action is begun until somebody resumes it."
    carry_out(request, lambda: operate.pause(actor=actor(request), why=why), done)
    return go_back(request, "agent")


@require_POST
@only_for(Deed.OPERATE)
def resume(request: HttpRequest) -> HttpResponse:
    done = "BytePort goes on: what waited is taken up within seconds."
    carry_out(request, lambda: operate.resume(actor=actor(request)), done)
    return go_back(request, "agent")
