-- Hold back the runs of a subscription. ARGV[2] subscription
return call('HSETNX', K .. ':paused', ARGV[2], f(now))
