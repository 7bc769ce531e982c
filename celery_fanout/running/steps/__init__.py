"""``step.*``: a file for each kind of step, and the path that all of them take.

``step`` has the public methods, ``calling`` the path of ``step.run``; ``entering``,
``checkpoints``, ``values`` and ``leaving`` are what the kinds of steps share.

May import what ``running`` may; of ``running`` the execution, and never what calls the body.
Private: its modules may change without notice.
"""
