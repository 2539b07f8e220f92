"""The hook of Glance: what its database and its own calls tell of images.

One line of Glance's configuration loads it: `[database] connection_parameters = plugin=metaledger`.
`service` describes Glance to `watching`, which reads before and after and records; `tables` is how
an image is read, `rows` (pure) says what happened, `intents` notes what Glance was told to do, by
wrapping a few of its functions, and `filter` adds what the caller's JSON patch asked to remove.
Nothing here imports Glance or oslo: they are used where the service has loaded them.
"""
