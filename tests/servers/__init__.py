"""Real servers for the tests: a broker, a database, a schema registry.

Rules: loopback only, free ports, data in a temporary folder, ended by process id at the end and
when the test process dies. A test sees the protocols of `interface` and never which kind it got:
`choice` takes containers where a Docker engine answers and has the image, else local processes.
Nothing here imports the product.

The life of a server: `choice` finds the parts it is made of (or says why there are none), the
constructor lays out its folder, `start` returns when it answers, `close` ends it and its data.
"""
