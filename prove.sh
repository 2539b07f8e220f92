#!/usr/bin/env bash
# The longest checks: races, crashes, poison, hostile bytes. `./prove.sh --list` names them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./test.sh --only-setup
exec .venv/bin/python -m tests.proofs "$@"
