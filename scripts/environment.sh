# shellcheck shell=bash
# Sourced by quickstart.sh and test.sh, to create their Python environment. Not meant to be run directly.
#
#   prepare_environment audio,serve   the core and the packages of these extras (pyproject.toml)
#   prepare_environment test          the packages of the checks; in the same environment if it exists
#
# ZOO_VENV         directory of the environment (default: .venv in the repository). About 6 GB.
# ZOO_INSTALLER    uv (default) or pip. uv downloads several packages at once: about 1 minute instead of 3 for quickstart.sh on two cores.
#                  pip fetches uv from the same index, and does the work itself if uv cannot be fetched, or fails.
#
# Modules are compiled when they are first imported, because most are never used; but at installation where PYTHONDONTWRITEBYTECODE is set,
# as in many container images, because there every command would compile torch again.
# A stamp file in it records the installed pyproject.toml and constraints.txt, so a second run installs nothing.

UV_VERSION=0.13.9

ZOO_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

heading() { printf '\n== %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 2
}

# Run a command with its output in a log file; show the elapsed time, and the end of the log if the command fails.
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
        fail "$what failed after $((SECONDS - started)) s (exit status $status)" "full log: $log; to retry, run the same script again"
    fi
    printf '%s: done in %d s\n' "$what" "$((SECONDS - started))"
}

# Print the first Python that is at least 3.11 and can create virtual environments.
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

digest() { # FILE... - hash of the contents
    "$ZOO_VENV/bin/python" -c 'import hashlib, pathlib, sys
print(hashlib.sha256(b"".join(pathlib.Path(name).read_bytes() for name in sys.argv[1:])).hexdigest())' "$@"
}

# Succeed if the files of every installed package exist with the sizes in its RECORD.
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
    if [ -e "$ZOO_VENV/made-by-zoo" ]; then # delete only environments that this script created
        rm -rf "$ZOO_VENV"
    elif [ -d "$ZOO_VENV" ] && [ -n "$(ls -A "$ZOO_VENV")" ]; then
        fail "ZOO_VENV=$ZOO_VENV is not empty and has no working Python with pip" \
            "set it to an environment with pip, or to a new folder"
    fi
    mkdir -p "$ZOO_VENV"
    touch "$ZOO_VENV/made-by-zoo"
    with_clock "Creating an environment with $("$python" -V) in $ZOO_VENV" "$ZOO_VENV/install.log" "$python" -m venv "$ZOO_VENV"
}

# Print the settings of pip (pip.conf, PIP_*) under the names of uv, which reads none of them, as lines NAME=VALUE.
# Fail if there is a setting that uv may not have.
settings_for_uv() {
    "$ZOO_VENV/bin/python" - <<'PYTHON'
import ast
import subprocess
import sys

NAMES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "cert": ("SSL_CERT_FILE", " "),
}
HARMLESS = {"cache-dir", "config-file", "default-timeout", "disable-pip-version-check", "no-cache-dir", "no-input", "progress-bar", "quiet", "retries",
            "require-virtualenv", "root-user-action", "timeout"}
SECTIONS = ("global", "install", ":env:")  # a later one replaces an earlier one

listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
found = {}
for section in SECTIONS:
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        place, _, name = key.rpartition(".")
        if place == section:
            found[name.replace("_", "-")] = ast.literal_eval(value)
if found.keys() - NAMES.keys() - HARMLESS:
    sys.exit("settings of pip that uv may not have: " + ", ".join(sorted(found.keys() - NAMES.keys() - HARMLESS)))
print("UV_SYSTEM_CERTS=true", "UV_INDEX_STRATEGY=unsafe-best-match", sep="\n")  # best match: as pip compares all indexes
# pip chooses among the wheels of all indexes; uv among those of the first index that has the version. An extra index may hold one wheel only,
# and a wrong one, such as soundfile's wheel without its library. The main index comes first; what uv calls the default index comes last.
if "extra-index-url" in found:
    *first, last = [found.get("index-url", "https://pypi.org/simple"), *found["extra-index-url"].split()]
    found |= {"index-url": last, "extra-index-url": " ".join(first)}
for name, (variable, separator) in NAMES.items():
    if name in found:
        print(f"{variable}={separator.join(found[name].split())}")
PYTHON
}

install_with_uv() { # ARGUMENTS OF pip install...
    local settings line
    settings="$(settings_for_uv)" || return 1
    "$ZOO_VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off --quiet --no-compile \
        --upgrade --target "$ZOO_VENV/uv" "uv==$UV_VERSION" || return 1
    (
        while IFS= read -r line; do export "${line?}"; done <<<"$settings"
        exec "$ZOO_VENV/uv/bin/uv" pip install --python "$ZOO_VENV/bin/python" ${PYTHONDONTWRITEBYTECODE:+--compile-bytecode} "$@"
    )
}

install_packages() { # ARGUMENTS OF pip install...
    local compile=--no-compile
    [ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || compile=--compile
    if [ "${ZOO_INSTALLER:-uv}" = uv ]; then
        if install_with_uv "$@"; then return; fi
        printf 'uv cannot be used; installing with pip\n'
    fi
    "$ZOO_VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$compile" "$@"
}

prepare_environment() { # [EXTRAS]
    local extras=$1 stamp installed
    unset PYTHONHOME PYTHONPATH # they would override the packages of the environment
    ZOO_VENV="${ZOO_VENV:-$ZOO_ROOT/.venv}"
    case "$ZOO_VENV" in /*) ;; *) ZOO_VENV="$PWD/$ZOO_VENV" ;; esac

    if ! "$ZOO_VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        make_venv
    elif [ -e "$ZOO_VENV/zoo-unfinished" ] && ! packages_whole; then
        printf 'The last installation was interrupted and left damaged packages; starting over.\n'
        make_venv
    fi

    # The path is part of the stamp, because an environment does not work after it is moved.
    stamp="$ZOO_ROOT $ZOO_VENV $(digest "$ZOO_ROOT/pyproject.toml" "$ZOO_ROOT/constraints.txt")"
    installed="$ZOO_VENV/zoo-installed"
    if [ "$(cat "$installed-$extras" 2>/dev/null)" != "$stamp" ]; then
        touch "$ZOO_VENV/zoo-unfinished" # this file remains if pip fails or is killed
        with_clock "Installing zoo with: $extras" "$ZOO_VENV/install.log" \
            install_packages -c "$ZOO_ROOT/constraints.txt" -e "$ZOO_ROOT[$extras]"
        printf '%s' "$stamp" >"$installed-$extras"
        rm -f "$ZOO_VENV/zoo-unfinished"
    fi

    export ZOO_VENV VIRTUAL_ENV="$ZOO_VENV" PATH="$ZOO_VENV/bin:$PATH"
}
