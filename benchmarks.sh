#!/usr/bin/env bash
# How fast, as ratios to a bare loop in the same run. `./benchmarks.sh --list` names the benchmarks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./test.sh --only-setup
exec .venv/bin/python -m benchmarks "$@"
