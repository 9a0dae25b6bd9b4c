#!/usr/bin/env bash
# Makes the environment, then checks style and types and runs the tests.
# Arguments go to pytest: bash scripts/test.sh tests/test_sam.py
set -euo pipefail
bash "$(dirname "$0")/environment.sh"
[[ "${VENV:-/}" == /* ]] || VENV="$PWD/$VENV"
cd "$(dirname "$0")/.."
VENV="${VENV:-.venv}"

# The compiler for TPUs, in a directory of its own: wherever JAX finds it, JAX
# looks for a TPU, and reports at length that there is none.
wanted="$("$VENV/bin/python" -c 'import importlib.metadata as metadata
print(*(r.split(";")[0] for r in metadata.requires("jax") if "libtpu" in r))')"
libtpu="${wanted%.\*}" libtpu="$VENV/${libtpu/==/-}"
if [[ ! -d "$libtpu" ]]; then
  echo "Installing $wanted into $libtpu..."
  rm -rf "$libtpu.new"
  if "$VENV/bin/python" -m pip install --quiet --no-deps \
    --target="$libtpu.new" "$wanted"; then
    mv "$libtpu.new" "$libtpu"
  else
    echo "No $wanted for this machine: the tests that need it are skipped."
  fi
fi
export PYTHONPATH="$libtpu${PYTHONPATH:+:$PYTHONPATH}"

"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
# Pytest compiles asserts to code of its own; this would do so in each session.
unset PYTHONDONTWRITEBYTECODE
"$VENV/bin/python" -m pytest --numprocesses=2 --dist=worksteal --durations=10 "$@"
