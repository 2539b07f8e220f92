"""What people run: the command line; the only place where the parts are put together."""
