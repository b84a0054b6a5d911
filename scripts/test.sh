#!/usr/bin/env bash
# Every check of the project: style, spelling, the cheap tests and beside them types, then the heavy tests and the wheel.
#
#   scripts/test.sh                  all of it; every step runs even where one fails, and the worst exit status is kept
#   scripts/test.sh ARGUMENTS...     only pytest, with these arguments
#
# WORKERS    processes that run tests; each takes one core and up to 4 GB of memory. 2 unless set.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

unset PYTHONDONTWRITEBYTECODE # hundreds of processes import the same packages: the first one compiles them
prepare_environment test
cd "$ZOO_ROOT"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false MPLBACKEND=Agg
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # tiny models are ten times slower on two threads where the cores are shared

if [ "$#" -gt 0 ]; then
    exec python -m pytest "$@"
fi

worst=0
failed=()
started=$SECONDS
reports="$(mktemp -d)"
types=''
trap 'kill $types 2>/dev/null || true; rm -rf "$reports"' EXIT
trap 'exit 130' INT

step() { # NAME COMMAND...
    local name=$1 status=0
    shift
    heading "$name"
    "$@" || status=$?
    if [ "$status" -ne 0 ]; then
        failed+=("$name")
        [ "$status" -le "$worst" ] || worst=$status
    fi
}

finish_types() {
    local status=0
    wait "$types" || status=$?
    cat "$reports/types.log"
    return "$status"
}

run_tests() { # NAME DISTRIBUTION MARKERS [FILES...]
    python -m pytest -n "${WORKERS:-2}" --dist "$2" -m "$3" --junitxml="$reports/$1.xml" "${@:4}"
}

python -m pyright >"$reports/types.log" 2>&1 &
types=$!
step "Lint" python -m ruff check .
step "Format" python -m ruff format --check .
step "Spelling" python -m codespell_lib .
step "Tests" run_tests 1 worksteal "not heavy and not wheel"
step "Types" finish_types
# The longest first, and those that share a run in one worker; to import all other files of tests would take each worker half a minute.
mapfile -t files < <(grep -rlE 'pytest\.mark\.(heavy|wheel)' tests --include='test_*.py' | LC_ALL=C sort)
step "Heavy tests and the wheel" run_tests 2 loadgroup "heavy or wheel" "${files[@]}"

python - "$reports" <<'PYTHON'
import pathlib
import sys
import xml.etree.ElementTree as ElementTree

counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
for report in pathlib.Path(sys.argv[1]).glob("*.xml"):
    for suite in ElementTree.parse(report).iter("testsuite"):
        for key in counts:
            counts[key] += int(suite.get(key, 0))
failed = counts["failures"] + counts["errors"]
print(f"\n{counts['tests'] - failed - counts['skipped']} passed, {failed} failed, {counts['skipped']} skipped")
PYTHON
if [ "$worst" -eq 0 ]; then
    printf 'All steps passed in %d s.\n' "$((SECONDS - started))"
else
    printf 'Failed after %d s: %s\n' "$((SECONDS - started))" "$(IFS=';' && printf '%s' "${failed[*]}")"
fi
exit "$worst"
