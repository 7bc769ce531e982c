from proj.celery import app as app
