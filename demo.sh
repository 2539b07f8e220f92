#!/usr/bin/env bash
# Shows what Metaledger does, on this machine and without a server:
#
#   ./demo.sh                   five incidents: what each lost, and what the ledger knows
#   ./demo.sh lost-base         one of them alone
#   ./demo.sh --folder demo     the same, and keeps the ledger to play with
#
# What it needs is installed into .venv-demo beside this file, once; an environment of the tests
# (.venv) is used where there is one. Python 3.11 or later has to be there.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}

say() { echo "==> $*" >&2; }

usable() {
    "$1" -c 'import metaledger.services.cli' >/dev/null 2>&1
}

if usable "$here/.venv/bin/python"; then
    environment=$here/.venv
else
    environment=$here/.venv-demo
    if ! usable "$environment/bin/python"; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
            say "Python 3.11 or later is needed, and $python is none (PYTHON=… names another)"
            exit 2
        }
        say "makes an environment in $environment"
        "$python" -m venv --clear "$environment"
        say "installs Metaledger and what its command line needs"
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
            -e "$here[services]"
    fi
fi
say "runs: metaledger demo $*"
exec "$environment/bin/python" -m metaledger.services demo "$@"
