"""Tests of the example: that its model reads well, and that its storage counts right."""
