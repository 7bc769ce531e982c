"""Management commands, and how they read their arguments.

May import what ``contrib.django`` may.
Private: the commands are public, their modules may change without notice.
"""
