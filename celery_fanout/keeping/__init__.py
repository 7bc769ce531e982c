"""Ledger to broker again: publish what is due, renew leases, find what was lost.

What happens in a worker's main process, or in a keeper of its own, without a message that asks for
it: timers, leases, lost messages, dead processes, and what follows from the end of a run.

May import ``emitting``, ``operating`` and what is below them.
Private: its modules may change without notice.
"""
