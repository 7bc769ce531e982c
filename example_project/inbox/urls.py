from django.urls import path

from example_project.inbox import views

app_name = "inbox"
urlpatterns = [
    path("", views.inbox, name="inbox"),
    path("progress/", views.inbox_progress, name="inbox-progress"),
    path("documents/<uuid:pk>/", views.document, name="document"),
    path("documents/<uuid:pk>/progress/", views.document_progress, name="progress"),
    path("documents/<uuid:pk>/runs/<uuid:run_id>/retry/", views.retry, name="retry"),
]
