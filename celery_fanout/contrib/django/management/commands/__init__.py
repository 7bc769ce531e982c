"""Management commands, named as they are called."""
