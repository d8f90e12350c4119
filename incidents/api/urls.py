"""The API's addresses."""

from django.urls import path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.routers import SimpleRouter

from incidents.api import schema, views
from incidents.api.problems import not_found

SCHEMES = (schema.BearerScheme, schema.SessionScheme)
router = SimpleRouter()
for name, viewset in (
    ("incidents", views.IncidentViewSet),
    ("actions", views.ActionViewSet),
    ("approvals", views.ApprovalViewSet),
    ("postmortems", views.PostmortemViewSet),
    ("sources", views.SourceViewSet),
    ("webhooks", views.WebhookViewSet),
    ("hosts", views.HostViewSet),
    ("databases", views.DatabaseViewSet),
    ("audit", views.AuditViewSet),
):
    router.register(f"api/v1/{name}", viewset, basename=f"api-{name}")

urlpatterns = [
    *router.urls,
    path("api/v1/signals/", views.SignalsView.as_view(), name="api-signals"),
    path("api/v1/agent/", views.AgentView.as_view(), name="api-agent"),
    path("api/v1/policies/", views.PolicyListView.as_view(), name="api-policies"),
    path("api/v1/policies/<str:name>/", views.PolicyView.as_view(), name="api-policy"),
    path("api/v1/schema/", SpectacularAPIView.as_view(), name="api-schema"),
    path("api/v1/docs/", SpectacularSwaggerSplitView.as_view(url_name="api-schema"), name="api-docs"),
    re_path(r"^api/", not_found),
]
