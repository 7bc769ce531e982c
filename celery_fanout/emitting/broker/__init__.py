"""Messages into the broker: routes, templates, connections, pipelines, confirms.

What publishes, and what depends on how kombu and its transports work inside. It gets frozen
chains, and decides nothing about events and runs.

May import what ``emitting`` may, and of its modules only ``chains``.
Private: its modules may change without notice.
"""
