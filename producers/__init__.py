"""From a service to the log: emitter, outbox, spool, relay, and the hooks. Light: this code lives
in other people's processes; it never blocks them, and fails them only where they chose `strict`.
"""
