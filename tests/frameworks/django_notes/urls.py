from django.urls import path

from tests.frameworks.django_notes import views

urlpatterns = [
    path("", views.page),
    path("form", views.form),
    path("upload", views.upload),
    path("file", views.download),
    path("stream", views.stream),
    path("endless", views.endless),
    path("silent", views.silent),
    path("broken", views.broken),
    path("notes", views.notes),
    path("async-notes", views.async_notes),
    path("entry", views.entry),
    path("rolled-back", views.rolled_back),
    path("forbidden", views.forbidden),
    path("visits", views.visits),
    path("thread", views.thread),
    path("loop", views.running_loop),
    path("query", views.query),
]

handler404 = views.missing
handler500 = views.sorry
