#!/usr/bin/env bash
# The longest checks: races, crashes, poison, hostile bytes. `./prove.sh --list` names them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
case " $* " in
    # Answered without a set-up, once there is one.
    *" --list "* | *" --help "* | *" -h "*) [ -x .venv/bin/python ] || ./test.sh --only-setup ;;
    *) ./test.sh --only-setup ;;
esac
exec .venv/bin/python -m tests.proofs "$@"
