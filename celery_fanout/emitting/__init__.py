"""emitting."""
