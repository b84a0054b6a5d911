# shellcheck shell=bash
# Sourced by quickstart.sh and test.sh: makes the environment that they run in. Not a command of its own.
#
#   prepare_environment             what training and classifying need
#   prepare_environment test        that and what the checks need, into the same environment
#
# ZOO_VENV    where the environment lies; .venv in the repository unless set. About 6 GB, 2-5 minutes the first time.
# A stamp in it says what was installed from which pyproject.toml and constraints.txt, so a second run starts at once.

ZOO_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

heading() { printf '\n== %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 2
}

# Run a command with its output in a log; show how long it takes, and the end of the log if it fails.
with_clock() { # WHAT LOG COMMAND...
    local what=$1 log=$2 started=$SECONDS clock='' status=0
    shift 2
    if [ -t 1 ]; then
        (while kill -0 "$$" 2>/dev/null; do printf '\r%s ... %d s ' "$what" "$((SECONDS - started))" && sleep 1; done) &
        clock=$!
    else
        printf '%s ...\n' "$what"
    fi
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ -n "$clock" ]; then
        kill "$clock" 2>/dev/null || true
        wait "$clock" 2>/dev/null || true
        printf '\r'
    fi
    if [ "$status" -ne 0 ]; then
        tail -n 20 "$log" >&2
        fail "$what failed after $((SECONDS - started)) s (exit status $status)" "the whole log: $log; to try again, run the same script again"
    fi
    printf '%s: done in %d s\n' "$what" "$((SECONDS - started))"
}

# Print the first Python that is new enough and can make environments.
find_python() {
    local name
    for name in python3.11 python3.12 python3; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11 or newer with the venv module (tried python3.11, python3.12, python3)" \
        "install one, for example: apt install python3.11-venv, brew install python@3.12, conda create -n zoo python=3.12"
}

digest() { # FILE... - the same for the same contents
    "$ZOO_VENV/bin/python" -c 'import hashlib, pathlib, sys
print(hashlib.sha256(b"".join(pathlib.Path(name).read_bytes() for name in sys.argv[1:])).hexdigest())' "$@"
}

# Whether every installed package still has the files, at the sizes, that its own record lists.
packages_whole() {
    "$ZOO_VENV/bin/python" -c 'import importlib.metadata, sys
import pip._internal.cli.main
for package in importlib.metadata.distributions():
    for file in package.files or [None]:
        if file is None or file.size is not None and file.locate().stat().st_size != file.size:
            sys.exit(1)' >/dev/null 2>&1
}

make_venv() {
    local python
    python="$(find_python)"
    if [ -e "$ZOO_VENV/made-by-zoo" ]; then # what someone else made is never emptied
        rm -rf "$ZOO_VENV"
    elif [ -d "$ZOO_VENV" ] && [ -n "$(ls -A "$ZOO_VENV")" ]; then
        fail "ZOO_VENV=$ZOO_VENV has things in it, but no working Python with pip" \
            "name an environment with pip, or a folder that does not exist yet"
    fi
    mkdir -p "$ZOO_VENV"
    touch "$ZOO_VENV/made-by-zoo"
    with_clock "Making an environment with $("$python" -V) in $ZOO_VENV" "$ZOO_VENV/install.log" "$python" -m venv "$ZOO_VENV"
}

prepare_environment() { # [EXTRAS]
    local extras=${1:-} stamp installed
    unset PYTHONHOME PYTHONPATH # they would put other packages before those of the environment
    ZOO_VENV="${ZOO_VENV:-$ZOO_ROOT/.venv}"
    case "$ZOO_VENV" in /*) ;; *) ZOO_VENV="$PWD/$ZOO_VENV" ;; esac

    if ! "$ZOO_VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        make_venv
    elif [ -e "$ZOO_VENV/zoo-unfinished" ] && ! packages_whole; then
        printf 'The last installation was cut off and left damaged packages; starting afresh.\n'
        make_venv
    fi

    # The folder is part of the stamp: an environment that was moved points to where it was.
    stamp="$ZOO_ROOT $ZOO_VENV $(digest "$ZOO_ROOT/pyproject.toml" "$ZOO_ROOT/constraints.txt")"
    installed="$ZOO_VENV/zoo-installed"
    if [ "$(cat "$installed-${extras:-core}" 2>/dev/null)" != "$stamp" ]; then
        touch "$ZOO_VENV/zoo-unfinished" # left behind where pip fails or is killed
        with_clock "Installing zoo${extras:+ with: $extras}" "$ZOO_VENV/install.log" \
            "$ZOO_VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
            -c "$ZOO_ROOT/constraints.txt" -e "$ZOO_ROOT${extras:+[$extras]}"
        printf '%s' "$stamp" >"$installed-${extras:-core}"
        printf '%s' "$stamp" >"$installed-core" # every set holds the core
        rm -f "$ZOO_VENV/zoo-unfinished"
    fi

    export ZOO_VENV VIRTUAL_ENV="$ZOO_VENV" PATH="$ZOO_VENV/bin:$PATH"
}
