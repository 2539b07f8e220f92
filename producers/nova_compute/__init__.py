"""The hook of nova-compute, which has no database: a notification driver that writes a spool.

One line of its configuration loads it beside the drivers that are there:
`[oslo_messaging_notifications] driver = metaledger`. In the life of an event this is its birth:

- `driver` is what oslo.messaging loads, and where the parts meet. `notifications` (pure) says what
  a notification tells; `operations` adds what Nova was asked to do and does not notify of.
- `imagebackend` wraps libvirt's image backends: each disk's intent is durable before it is made.
- `identity` tells which hypervisor this is, and by which host name it is reached.

`arrival` installs the wraps when Nova loads what they wrap; `settings` reads `[metaledger]`.
Nothing here imports Nova, oslo or eventlet: they are used where the service has loaded them.
Nothing is opened before the first use in a process.
"""
