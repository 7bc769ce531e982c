"""Where events, runs and step results are written: the protocols, their records, the stores.

``checkpoints`` and ``ledger`` are the two protocols, ``records``, ``limits`` and ``states`` what
they are called with and answer; ``backend``, ``redis`` and ``memory`` implement them. A store holds
the rules of its data: which states may follow, who may write, what limits allow. It publishes
nothing.

May import ``model`` and what is below it.
Private: its modules may change without notice.
"""
