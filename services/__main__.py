"""The entry point of the script `metaledger`, and of `python -m metaledger.services`.

A hooked service's environment gets this script too, and the command line's own dependencies do not
come with the base: who types it there is told so, in one line.
"""

import sys

_USAGE = 2


def main() -> None:
    """Runs the command line, where all that it needs is installed."""
    try:
        from metaledger.services import cli  # noqa: PLC0415 (what is missing is told)
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"metaledger: {error.name} is not installed here: the command line needs an "
            "environment with metaledger[services]\n"
        )
        sys.exit(_USAGE)
    cli.main()


if __name__ == "__main__":
    main()
