"""The API's views. Reads go by primary key, page by page, so that none costs more as history grows."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, ClassVar

import msgspec
from django.db.models import QuerySet
from django_filters import rest_framework as filters
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.pagination import CursorPagination
from rest_framework.parsers import BaseParser, JSONParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from byteport.core.clock import now
from byteport.models import AuditEntry, Host, MonitoredDatabase
from byteport.problem import CONTENT_TYPE, ProblemError
from incidents import operate, policies
from incidents.api import serializers as forms
from incidents.api.etags import etag_of, with_etags
from incidents.api.idempotency import HEADER, Idempotent
from incidents.api.narrowing import Narrowing
from incidents.queries import HEAVY
from incidents.record import record_of
from incidents.report import event_of, incident_document
from incidents.roles import Deed
from incidents.search import QUERY_CHARS, matching
from runbooks.models import AgentAction, Approval
from runbooks.policy import agent_settings
from signals import limits
from signals.ingest import ingest
from signals.models import OutgoingWebhook, SignalEvent, Source
from signals.reading import Reading
from signals.source import Call, SourceConfig
from signals.sources.generic import SOURCE as GENERIC
from signals.untrusted import MalformedError

PROBLEMS = {(status, CONTENT_TYPE): forms.Problem for status in (400, 401, 403, 404, 429)}
WRITE_PROBLEMS = {**PROBLEMS, **{(status, CONTENT_TYPE): forms.Problem for status in (409, 412, 415, 422)}}
PLAN_HASH = "9f2c1d4e8a7b3c60"  # in examples
IDEMPOTENCY = OpenApiParameter(HEADER, str, OpenApiParameter.HEADER, description="The same key: carried out once.")


class Pages(CursorPagination):
    """The newest first."""

    ordering = "-pk"
    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200

    def decode_cursor(self, request: Request) -> Any:
        """DRF's own, which takes any text for a position."""
        cursor = super().decode_cursor(request)
        if cursor is not None and cursor.position is not None and not str(cursor.position).isdecimal():
            raise NotFound(self.invalid_cursor_message)
        return cursor


class PagesOfNames(Pages):
    """For what has a name: in the order in which they were made."""

    ordering = "pk"


class PagesOfTexts(Pages):
    """For what is long, and for a draft rendered."""

    page_size = 20
    max_page_size = 50


class IncidentFilter(filters.FilterSet):  # type: ignore[misc]
    status = filters.MultipleChoiceFilter(choices=SignalEvent._meta.get_field("status").choices or [])
    open = filters.BooleanFilter(method="only_open", label="open or resolved")
    detected_after = filters.IsoDateTimeFilter(field_name="detected_at", lookup_expr="gte")
    detected_before = filters.IsoDateTimeFilter(field_name="detected_at", lookup_expr="lt")

    class Meta:
        model = SignalEvent
        fields = ("signal", "resource", "severity", "runbook", "source", "resolved_by")

    def only_open(self, rows: QuerySet[SignalEvent], name: str, value: bool) -> QuerySet[SignalEvent]:
        return rows.filter(status__in=SignalEvent.OPEN) if value else rows.exclude(status__in=SignalEvent.OPEN)


class PostmortemFilter(filters.FilterSet):  # type: ignore[misc]
    q = filters.CharFilter(method="only_matching", max_length=QUERY_CHARS, label='words, "a phrase", -without, or')

    class Meta:
        model = SignalEvent
        fields = ("signal", "resource", "postmortem_final")

    def only_matching(self, rows: QuerySet[SignalEvent], name: str, value: str) -> QuerySet[SignalEvent]:
        return matching(rows, value)


class ReadOnly(mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Any]):
    """A list in pages, and one row by its id. Answers with an ETag, and 304 to who has it already."""

    pagination_class = Pages
    filter_backends = (Narrowing,)
    deeds: ClassVar[Mapping[str, Deed]] = {}


def read_only(view: type[ReadOnly]) -> type[ReadOnly]:
    """Documents the two reads alike for all."""
    documented = extend_schema_view(
        list=extend_schema(responses={200: view.serializer_class(many=True), **PROBLEMS}),  # type: ignore[misc]
        retrieve=extend_schema(responses={200: view.serializer_class, **PROBLEMS}),
    )(view)
    return with_etags(documented)


@read_only
class IncidentViewSet(Idempotent, ReadOnly):
    """Incidents: what was detected, what was done, how it ended."""

    queryset = SignalEvent.objects.defer(*HEAVY)
    serializer_class = forms.IncidentSerializer
    filterset_class = IncidentFilter
    deeds: ClassVar = {"POST": Deed.APPROVE}

    @extend_schema(responses={200: dict, **PROBLEMS})
    @action(detail=True)
    def record(self, request: Request, pk: str) -> Response:
        """All that is on record of one incident; docs/commands.md names the keys."""
        event = event_of(self.get_object().pk)
        return Response(incident_document(event, record_of(event)))

    @extend_schema(
        request=forms.Approve,
        responses={200: forms.IncidentSerializer, **WRITE_PROBLEMS},
        parameters=[IDEMPOTENCY],
        examples=[OpenApiExample("The plan that was shown", value={"plan_hash": PLAN_HASH}, request_only=True)],
    )
    @action(detail=True, methods=["POST"])
    def approve(self, request: Request, pk: str) -> Response:
        """Says yes to the plan that waits."""
        return self._decide(request, forms.Approve, operate.approve)

    @extend_schema(
        request=forms.Refuse,
        responses={200: forms.IncidentSerializer, **WRITE_PROBLEMS},
        parameters=[IDEMPOTENCY],
        examples=[
            OpenApiExample("Not now", value={"plan_hash": PLAN_HASH, "why": "We are in a release."}, request_only=True)
        ],
    )
    @action(detail=True, methods=["POST"])
    def refuse(self, request: Request, pk: str) -> Response:
        """Says no to the plan that waits; people take over."""
        return self._decide(request, forms.Refuse, operate.refuse)

    def _decide(self, request: Request, form: type[Any], deed: Callable[..., None]) -> Response:
        event_id, said = self.get_object().pk, checked(form, request)

        def work() -> Response:
            deed(event_id, actor=actor(request), **said)
            return Response(forms.IncidentSerializer(SignalEvent.objects.get(pk=event_id)).data)

        return self.once(request, work)


@read_only
class ActionViewSet(ReadOnly):
    """What BytePort did, or in dry-run would have done."""

    queryset = AgentAction.objects.all()
    serializer_class = forms.ActionSerializer
    filterset_fields = ("event", "action", "status", "dry_run", "target")


@read_only
class ApprovalViewSet(ReadOnly):
    """Plans that wait for a person's word, or got it. Decided at the incident: `approve`, `refuse`."""

    queryset = Approval.objects.all()
    serializer_class = forms.ApprovalSerializer
    filterset_fields = ("event", "approved")


@read_only
class PostmortemViewSet(ReadOnly):
    """Postmortems, by their incident's id. `q` searches in those that are kept, as the console's search does."""

    queryset = SignalEvent.objects.all()
    serializer_class = forms.PostmortemSerializer
    pagination_class = PagesOfTexts
    filterset_class = PostmortemFilter


@read_only
class SourceViewSet(ReadOnly):
    """Where readings come from."""

    queryset = Source.objects.all()
    serializer_class = forms.SourceSerializer
    pagination_class = PagesOfNames
    filterset_fields = ("kind", "enabled", "slug")


@read_only
class WebhookViewSet(ReadOnly):
    """Outgoing webhooks; they are made and changed in the admin, which shows a new one's secret."""

    queryset = OutgoingWebhook.objects.all()
    serializer_class = forms.WebhookSerializer
    pagination_class = PagesOfNames
    filterset_fields = ("name", "enabled")


@read_only
class HostViewSet(ReadOnly):
    """The inventory of hosts."""

    queryset = Host.objects.all()
    serializer_class = forms.HostSerializer
    pagination_class = PagesOfNames
    filterset_fields = ("name", "way", "enabled")


@read_only
class DatabaseViewSet(ReadOnly):
    """Monitored database servers."""

    queryset = MonitoredDatabase.objects.all()
    serializer_class = forms.DatabaseSerializer
    pagination_class = PagesOfNames
    filterset_fields = ("name", "enabled")


@read_only
class AuditViewSet(ReadOnly):
    """Who changed what, from what, to what."""

    queryset = AuditEntry.objects.all()
    serializer_class = forms.AuditSerializer
    filterset_fields = ("actor", "action", "target")


class RawJSON(BaseParser):
    """The body as it came: the signals' own format is checked where it is defined."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> dict[str, bytes]:
        return {"body": stream.read()}


class SignalsView(Idempotent, APIView):
    """Signals, in BytePort's own format (docs/webhooks.md)."""

    parser_classes = (RawJSON,)
    deeds: ClassVar = {"POST": Deed.SIGNAL}

    @extend_schema(
        request=forms.ResourceMessage(many=True),
        responses={202: forms.SignalsAnswer, **WRITE_PROBLEMS},
        parameters=[IDEMPOTENCY],
        examples=[
            OpenApiExample(
                "A full disk",
                value=[{"signal": "disk_pressure", "resource": "host/web-1/mount/%2Fvar", "status": "firing"}],
                request_only=True,
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """One, or a list of up to 1,000; taken as a whole or not at all, durable before the answer."""
        readings = _readings(request)
        pause_s = limits.wait_s(f"api:{request.user.pk}", len(readings), limits.PER_SECOND)
        if pause_s > 0:
            headers = {"Retry-After": str(round(pause_s + 0.5))}
            raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, "More than may be sent at once.", headers=headers)
        return self.once(request, lambda: _ingested(readings))


def _readings(request: Request) -> list[Reading]:
    assert isinstance(request.data, dict)  # by RawJSON
    try:
        said = GENERIC.parse(SourceConfig(f"api:{actor(request)}"), Call({}, request.data.get("body", b"")), now())
    except MalformedError as error:
        raise ProblemError(HTTPStatus.BAD_REQUEST, str(error)) from error
    return [one for one in said if isinstance(one, Reading)]


def _ingested(readings: list[Reading]) -> Response:
    led_to = ingest(readings)
    answer = {"accepted": len(readings), "opened": led_to.opened, "cleared": led_to.cleared, "why": led_to.why}
    return Response(forms.SignalsAnswer(answer).data, status=HTTPStatus.ACCEPTED)


@with_etags
class AgentView(Idempotent, APIView):
    """The agent as a whole: dry-run and the kill switch."""

    parser_classes = (JSONParser,)
    deeds: ClassVar = {"PATCH": Deed.OPERATE}

    @extend_schema(responses={200: forms.AgentState, **PROBLEMS})
    def get(self, request: Request) -> Response:
        return _agent()

    @extend_schema(
        request=forms.AgentChange,
        responses={200: forms.AgentState, **WRITE_PROBLEMS},
        parameters=[IDEMPOTENCY],
        examples=[
            OpenApiExample("A pause", value={"paused": True, "why": "We are moving racks."}, request_only=True),
            OpenApiExample("Dry-run off", value={"dry_run": False}, request_only=True),
        ],
    )
    def patch(self, request: Request) -> Response:
        return self.once(request, lambda: _switched(checked(forms.AgentChange, request), actor(request)))


def _agent() -> Response:
    return Response(forms.AgentState(agent_settings()).data)


def _switched(wanted: Mapping[str, Any], who: str) -> Response:
    if "dry_run" in wanted:
        operate.set_dry_run(wanted["dry_run"], actor=who)
    if wanted.get("paused") is True:
        operate.pause(actor=who, why=wanted.get("why", ""))
    elif wanted.get("paused") is False:
        operate.resume(actor=who)
    return _agent()


@with_etags
class PolicyListView(APIView):
    """The policies of all signals and runbooks."""

    @extend_schema(operation_id="policies_list", responses={200: forms.PolicySerializer(many=True), **PROBLEMS})
    def get(self, request: Request) -> Response:
        return Response([msgspec.to_builtins(each) for each in policies.all_policies()])


@with_etags
class PolicyView(Idempotent, APIView):
    """One policy."""

    parser_classes = (JSONParser,)
    deeds: ClassVar = {"PATCH": Deed.CONFIGURE}

    @extend_schema(responses={200: forms.PolicySerializer, **PROBLEMS})
    def get(self, request: Request, name: str) -> Response:
        return _policy(name)

    @extend_schema(
        request={"application/json": {"type": "object", "additionalProperties": {"type": ["number", "boolean"]}}},
        responses={200: forms.PolicySerializer, **WRITE_PROBLEMS},
        parameters=[IDEMPOTENCY, OpenApiParameter("If-Match", str, OpenApiParameter.HEADER)],
        examples=[OpenApiExample("A higher threshold", value={"threshold": 88, "clear": 82}, request_only=True)],
    )
    def patch(self, request: Request, name: str) -> Response:
        """Sets fields, all of them or none. With `If-Match` only if the policy is still the one that was read."""
        wanted = _wanted(request)
        _require_match(request, _policy(name))

        def work() -> Response:
            policies.change(name, wanted, actor=actor(request))
            return _policy(name)

        return self.once(request, work)


def _policy(name: str) -> Response:
    if name not in policies.names():
        raise ProblemError(HTTPStatus.NOT_FOUND, f"There is no policy {name[:100]}.")
    document = msgspec.to_builtins(policies.policy(name))
    return Response(document, headers={"ETag": etag_of(document)})


def _wanted(request: Request) -> dict[str, str]:
    """The fields as text, which the policy's own checks read."""
    if not isinstance(request.data, dict) or not request.data:
        raise ProblemError(HTTPStatus.BAD_REQUEST, "Send a JSON object of the fields to set.")
    if not all(isinstance(value, bool | int | float | str) for value in request.data.values()):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "A field's value is a number, or true or false.")
    return {str(key): _text(value) for key, value in request.data.items()}


def _text(value: bool | float | str) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _require_match(request: Request, present: Response) -> None:
    wanted = request.headers.get("If-Match")
    if wanted and wanted != "*" and present.headers["ETag"] not in [each.strip() for each in wanted.split(",")]:
        detail = "Somebody has changed it meanwhile. Read it again, then decide."
        raise ProblemError(HTTPStatus.PRECONDITION_FAILED, detail)


def checked(form: type[Any], request: Request) -> dict[str, Any]:
    """What the body says, by its form. Raises DRF's ValidationError, for a field that the form has not, too: a
    misspelt `paused` must not pass for a pause."""
    given = form(data=request.data)
    given.is_valid(raise_exception=True)
    unknown = next((name for name in request.data if name not in given.fields), None)
    if unknown is not None:
        raise ValidationError({unknown: f"There is no such field. There are: {', '.join(given.fields)}."})
    return dict(given.validated_data)


def actor(request: Request) -> str:
    return str(request.user.get_username())
