-- Hold back the runs of a subscription.
-- args: subscription
return call('HSETNX', K .. ':paused', subscription, f(now))
