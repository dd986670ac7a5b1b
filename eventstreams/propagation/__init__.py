"""Change propagation and the job queue: rules act on events, at least once.

A rule reads topics. For each event that it takes, it makes HTTP requests or produces further
events. The model is Wikimedia's change-propagation, whose rule files can be used unchanged.

The pure part makes decisions:

- `rule_file` reads a YAML file into a `RuleFile`, and compiles it with `matching`, `template` and
  `rule`: a `Rule` chooses a `Case`, whose `render` makes `actions` (`Request`, `Produce`,
  `Repost`).
- `frontier.CommitFrontier` tracks which events of a partition are finished.
- `retry`, `breaker`, `sampling` and `trigger` determine when to retry, which hosts get no requests,
  which share of events to take, and whether events form a loop.

The other part acts:

- A `worker.RuleWorker` runs one rule. It reads from a `source.Source` (`LogSource` over a log of
  this process, or `log/kafka/group.KafkaGroup`), makes a `job.Job` from each event that the rule
  takes, and passes it to the rule's `executor.Executor` when it is due and a slot is free.
- The executor checks whether to drop the event, has `acting.Actor` carry out the actions through
  `http.HttpClient` and `producing.Producing`, and writes retry and error events (`events`).
- `state` contains the state that instances share: `Deduplicator` and `Limiters`, in memory or
  Redis.
- `service.Propagation` builds all of this for a rule file. `preview` shows what rules would do.

Easy to get wrong: an event is finished when it was acted on, dropped, or
stored in another topic (of retries or errors), and only then may a commit pass it. An event that
waits for its time, for another event of its key or for a slot is in flight, and holds the frontier
back. A crash or a rebalance therefore repeats events, but never skips one.
"""
