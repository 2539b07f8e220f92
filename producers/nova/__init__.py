"""The hook of Nova: what a cell's database tells of instances and of removed hypervisors.

One line in the configuration of nova-api and nova-conductor loads it: `[database]
connection_parameters = plugin=metaledger`; nova-compute has no database. `service` describes Nova
to `watching`, which reads before and after and records; `tables` is how an instance is read, `rows`
(pure) says what happened, `intents` notes that Nova was told to rebuild. Nothing here imports Nova
or oslo: they are used where the service has loaded them.
"""
