"""The hook of Glance: an SQLAlchemy engine plugin that writes what its transactions did.

One line of Glance's configuration loads it: `[database] connection_parameters = plugin=metaledger`.
In the life of an event this is its birth, inside the service's own transaction:

1. `statements` reads from each INSERT, UPDATE and DELETE which images it touches.
2. `watch` locks the image's counter at the first touch, and reads the image (`tables`).
3. `intents` notes what Glance was told to do, by wrapping a few of its functions; `filter` adds
   what the caller's JSON patch asked to remove.
4. Just before the commit `watch` reads the image again, `rows` (pure) says what happened, and the
   outbox gets the events in the same transaction.

`plugin` puts these together; `settings` reads the section `[metaledger]`. Nothing here imports
Glance or oslo: they are used where the service has loaded them.
"""
