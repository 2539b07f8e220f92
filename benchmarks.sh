#!/usr/bin/env bash
# How fast, as ratios to a bare loop in the same run. `./benchmarks.sh --list` names the benchmarks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
case " $* " in
    # Answered without a set-up, once there is one.
    *" --list "* | *" --help "* | *" -h "*) [ -x .venv/bin/python ] || ./test.sh --only-setup ;;
    *) ./test.sh --only-setup ;;
esac
exec .venv/bin/python -m benchmarks "$@"
