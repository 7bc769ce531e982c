"""Management commands, named as they are called.

May import what ``contrib.django`` may. Nothing but Django imports it.
Private: the commands are public, their modules may change without notice.
"""
