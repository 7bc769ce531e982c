"""What users see of the types. Never executed: ``make check`` runs mypy and pyright on it."""
