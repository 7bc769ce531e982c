-- Hold back the runs of a subscription. ARGV[3] subscription
return call('HSETNX', K .. ':paused', ARGV[3], f(now))
