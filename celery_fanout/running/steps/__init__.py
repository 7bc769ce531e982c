"""``step.*``: a file for each kind of step, and the path that all of them take.

``step`` has the public methods, ``checkpoints`` the path of one step.

May import what ``running`` may; of ``running`` the execution, and never what calls the body.
Private: its modules may change without notice.
"""
