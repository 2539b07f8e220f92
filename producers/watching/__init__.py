"""What every engine plugin does, whatever its service: watch, read before and after, record.

In the life of an event this is its birth, inside the service's own transaction:

1. `statements` reads from each INSERT, UPDATE and DELETE which aggregates it touches.
2. `watch` locks their counters at the first touch, and lets the service read them; `gathered`
   remembers what was read, and forgets it with the transaction or the savepoint.
3. Just before the commit `watch` lets the service read them again and say what happened, and the
   outbox gets the events in the same transaction.

`service` is all that one service has to say of itself; `union` is how it reads several tables in
one round trip. `settings` reads the section `[metaledger]` of the service's configuration. Nothing
here knows a service, and nothing imports one: they are used where a process has loaded them.
"""
