"""Limits that processes share: leases of streams, rates, and notes such as tickets.

`QuotaCounters` counts and is pure. `Quota` takes and returns leases through a `QuotaBackend`: the
counters of this process (`LocalQuota`), of the workers' parent process (`WorkerQuota`, answered by
`QuotaServer`), or of Redis (`RedisQuota`). While the shared counters are unreachable, each process
enforces the limits on its own.

Easy to get wrong: processes report absolute numbers of leases, not changes, so a report that is
lost or repeated does no harm.
"""
