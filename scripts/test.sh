#!/usr/bin/env bash
# Makes the environment, then checks style and types and runs the tests.
# Arguments go to pytest: bash scripts/test.sh tests/test_sam.py
set -euo pipefail
bash "$(dirname "$0")/environment.sh"
[[ "${VENV:-/}" == /* ]] || VENV="$PWD/$VENV"
cd "$(dirname "$0")/.."
VENV="${VENV:-.venv}"

"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
# Pytest compiles asserts to code of its own; this would do so in each session.
unset PYTHONDONTWRITEBYTECODE
"$VENV/bin/python" -m pytest --numprocesses=2 --dist=worksteal --durations=10 "$@"
