#!/usr/bin/env bash
# Runs the tests and the quickstart on every Python, with the newest versions
# that constraints/ holds and with the oldest ones. Arguments go to pytest.
#   $CELLS  which; default: "py311-oldest py311 py312-oldest py312 ..."
# Usage: CELLS="py311-oldest py313" bash scripts/matrix.sh tests/test_sam.py
# Environments stay in .venvs/, and what was printed in runs/matrix/.
set -euo pipefail
cd "$(dirname "$0")/.."

main() {
  local cells=(py31{1,2,3}{-oldest,}) cell log seconds outcome failed=0
  mkdir -p runs/matrix
  for cell in ${CELLS:-"${cells[@]}"}; do
    log="runs/matrix/$cell.log" seconds=$SECONDS
    set +e
    (set -e && run_cell "$cell" "$@") >"$log" 2>&1 </dev/null
    outcome=$?
    set -e
    if ((outcome)); then outcome=failed failed=1; else outcome=passed; fi
    echo "$cell: $outcome in $((SECONDS - seconds)) s, see $log"
    grep -E "^(=+ .* in .* =+|FAILED .*|ERROR .*|error: .*)$" "$log" || true
  done
  exit $failed
}

# Runs one cell in its own environment.
run_cell() {
  local cell="$1" runs="runs/matrix/$1"
  shift
  PYTHON="$(interpreter "${cell:2:1}.${cell:3:2}")"
  VENV=".venvs/$cell" VERSIONS=""
  [[ "$cell" != *-* ]] || VERSIONS="${cell#*-}"
  export PYTHON VENV VERSIONS
  bash scripts/environment.sh
  "$VENV/bin/python" -m pytest --numprocesses=2 --dist=worksteal "$@"
  rm -rf "$runs"
  bash scripts/quickstart.sh "$runs"
}

# Prints the path of the interpreter of a version, such as 3.12.
interpreter() {
  local candidate
  for candidate in "python$1" "$HOME"/.pyenv/versions/"$1".*/bin/python; do
    if "$candidate" -c "import sys
sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: there is no Python $1; install it as python$1." >&2
  return 1
}

main "$@"
