"""What fits celery-fanout into frameworks. Each is optional, and nothing else imports it."""
