"""`python -m metaledger.services`: the command line, where no script is installed."""

from metaledger.services.cli import main

main()
