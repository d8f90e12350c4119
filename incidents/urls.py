"""The console's addresses."""

from django.urls import path

from incidents.postmortem_view import postmortem
from incidents.views import agent, incident, listing, overview, postmortems, runbooks

urlpatterns = [
    path("", overview.overview, name="overview"),
    path("top/", overview.top, name="top"),
    path("theme/", overview.theme, name="theme"),
    path("incidents/", listing.incidents, name="incidents"),
    path("incidents/<int:pk>/", incident.incident, name="incident"),
    path("incidents/<int:event_id>/postmortem", postmortem, name="postmortem"),
    path("incidents/<int:pk>/approve/", incident.approve, name="incident-approve"),
    path("incidents/<int:pk>/refuse/", incident.refuse, name="incident-refuse"),
    path("incidents/<int:pk>/end/", incident.end, name="incident-end"),
    path("incidents/<int:pk>/deliveries/<int:delivery>/again/", incident.send_again, name="send-again"),
    path("postmortems/", postmortems.postmortems, name="postmortems"),
    path("agent/", agent.agent, name="agent"),
    path("agent/dry-run/", agent.dry_run, name="agent-dry-run"),
    path("agent/pause/", agent.pause, name="agent-pause"),
    path("agent/resume/", agent.resume, name="agent-resume"),
    path("runbooks/", runbooks.runbooks, name="runbooks"),
    path("runbooks/<slug:name>/", runbooks.runbook, name="runbook"),
]
