"""Documents and pictures."""

from proj.calls import note

TEXT = "Invoice 17. Acme Ltd. owes Baker Inc. 120.00 EUR, due 2026-05-03."


def get(document_id):
    note(f"get {document_id}")
    return TEXT


def shrink(name):
    note(f"shrink {name}")
    return f"small-{name}"
