"""The address of the webhooks. Whatever stands after `hooks/` is answered by the view, as a problem if need be."""

from django.urls import path

from signals.webhook import enqueue_event, receive

urlpatterns = [
    path("hooks/<path:slug>", receive, name="webhook"),
    path("v2/enqueue", enqueue_event, name="events-v2"),
]
