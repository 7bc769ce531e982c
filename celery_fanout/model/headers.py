"""The names of the headers that messages carry, and the version of that wire format."""

from __future__ import annotations

#: Header with the run's id; equal to the task id of the link that it is on.
RUN_HEADER = "fanout_run"

#: Header with the subscription's id.
SUBSCRIPTION_HEADER = "fanout_subscription"

#: Header with the version of this wire format.
VERSION_HEADER = "fanout_version"

#: Header with the event's data as JSON, on links whose arguments are something else.
DATA_HEADER = "fanout_data"

#: Header of an on_failure task, whose argument holds the event.
FAILURE_HEADER = "fanout_failure"

#: Header with the POSIX time before which a message that came early is sent on its way again.
RESUME_HEADER = "fanout_resume_at"

#: Header with how often the run was put back in a row because the store did not answer.
STORE_RETRIES_HEADER = "fanout_store_retries"

#: The token of the claim that its worker left then.
STORE_LEFT_HEADER = "fanout_store_left"

#: Header with what a run is, if it is no subscription's handling of an event; level 2.
KIND_HEADER = "fanout_kind"

#: Header with the generation of a run, if that is not the first; level 2.
GENERATION_HEADER = "fanout_generation"

#: Header of a run of step.parallel: field of the step's checkpoint, and index of the item.
BRANCH_HEADER = "fanout_branch"

#: Header with the keys of the events that a run collected, in their order, the last ones of many;
#: level 2.
EVENTS_HEADER = "fanout_events"

#: Header of a run whose argument is the list of a batch.
BATCH_HEADER = "fanout_batch"

#: Header of a run whose result is not to be kept, by an option of its subscription; level 2.
IGNORED_HEADER = "fanout_ignored"

#: Stands as a run's message in the ledger, if that had lost the run and recorded it anew from the
#: broker's message: the data of its event there is already the list of a batch.
BATCHED = "batch"

VERSION = 1

#: Name of the errback task that stands between Celery and the user's ``on_failure`` task.
ERRBACK = "celery_fanout.report_failure"
