#!/usr/bin/env bash
# Makes the virtual environment that the other scripts run in, if there is none.
#   $VENV      where; default .venv
#   $PYTHON    which interpreter; default python3
#   $VERSIONS  "oldest": the oldest versions that pyproject.toml allows
# $VENV/.installed-from says what the environment was made from. After a move of
# the checkout, for another interpreter and after an interrupted installation
# the environment is made again; other requirements are installed into it.
# Usage: bash scripts/environment.sh && source .venv/bin/activate
set -euo pipefail
# Relative paths are those of where the command was typed.
[[ "${VENV:-/}" == /* ]] || VENV="$PWD/$VENV"
[[ "${PYTHON:-/}" == /* || "$PYTHON" != */* ]] || PYTHON="$PWD/$PYTHON"
cd "$(dirname "$0")/.."

main() {
  venv="${VENV:-.venv}" python="${PYTHON:-python3}"
  local version
  read -r version base < <(interpreter 2>/dev/null) ||
    refuse "PYTHON=$python is no Python; choose one: PYTHON=python3.12."
  version="${version%.*}"
  constraints="constraints/py${version/./}${VERSIONS:+-$VERSIONS}.txt"
  [[ -f "$constraints" ]] ||
    refuse "$constraints does not exist: PYTHON=$python is Python $version and \
VERSIONS=${VERSIONS:-}; choose another: PYTHON=python3.12."
  mkdir -p "$(dirname "$venv")"
  made_by="$(interpreter) $(cd "$(dirname "$venv")" && pwd -P) $(pwd -P)"
  made_from="$(cat pyproject.toml "$constraints" | cksum)"
  is_made && exit

  exec 9>"$venv.lock"
  take_lock
  is_made || make # another process may have made it in the meantime
}

refuse() {
  echo "error: $1" >&2
  exit 2
}

# Prints the version and the path of the interpreter; for that of an
# environment, which may be the one to remove, the one that it was made with.
interpreter() {
  "$python" -c 'import sys
print("%d.%d.%d" % sys.version_info[:3], sys._base_executable)'
}

# Takes the lock of file descriptor 9. It ends with the processes that have the
# descriptor, so no crash leaves it behind. flock(1) is missing on macOS.
take_lock() {
  "$base" -c 'import fcntl
try:
  fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
  print("Waiting for another installation into the same environment...")
  fcntl.flock(9, fcntl.LOCK_EX)'
}

is_made() {
  [[ "$(stamp)" == "$made_by"$'\n'"$made_from" ]] && runs
}

stamp() {
  cat "$venv/.installed-from" 2>/dev/null || true
}

runs() {
  "$venv/bin/python" -c "" 2>/dev/null
}

make() {
  local unfinished="$venv/.installing"
  [[ ! -e "$venv" || -f "$venv/.installed-from" || -f "$unfinished" ]] ||
    refuse "$venv was not made by scripts/environment.sh; remove it, or choose \
another directory: VENV=.venv2."
  echo "Installing sam_jax into $venv (a few minutes the first time)..."
  if [[ "$(stamp | head -n 1)" == "$made_by" ]] && runs; then
    mv "$venv/.installed-from" "$unfinished"
  else
    rm -rf "$venv"
    mkdir -p "$venv"
    touch "$unfinished"
    "$base" -m venv "$venv"
  fi
  "$venv/bin/python" -m pip install --quiet --quiet \
    --constraint="$constraints" --editable='.[test]'
  printf '%s\n' "$made_by" "$made_from" >"$unfinished"
  mv "$unfinished" "$venv/.installed-from"
}

main
