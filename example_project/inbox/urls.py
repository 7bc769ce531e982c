from django.conf import settings
from django.urls import path

from celery_fanout.contrib.django.webhooks import StandardWebhooks, webhook
from example_project.inbox import views

app_name = "inbox"
receive = webhook(
    StandardWebhooks(settings.WEBHOOK_SECRET),
    {"document.sent": "document/received"},
    max_size=settings.MAX_DOCUMENT_SIZE + 50 * 1024,  # as JSON
    delivery=settings.WEBHOOK_DELIVERY,
)
urlpatterns = [
    path("", views.inbox, name="inbox"),
    path("progress/", views.inbox_progress, name="inbox-progress"),
    path("documents/<uuid:pk>/", views.document, name="document"),
    path("documents/<uuid:pk>/progress/", views.document_progress, name="progress"),
    path("documents/<uuid:pk>/runs/<uuid:run_id>/retry/", views.retry, name="retry"),
    path("webhooks/documents/", receive, name="webhook"),
]
