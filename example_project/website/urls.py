from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("example_project.inbox.urls")),
    path("admin/", admin.site.urls),
]
