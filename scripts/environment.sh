# Makes the virtual environment that the other scripts run in; sourced by them.
# $VENV: where (default .venv); $PYTHON: which interpreter (default python3).
VENV="${VENV:-.venv}"
STAMP="$VENV/.installed-from"
WANTED="$(cat setup.py pyproject.toml | cksum)"

if [[ ! -f "$STAMP" || "$(cat "$STAMP")" != "$WANTED" ]]; then
  echo "Installing sam_jax into $VENV (a few minutes the first time)..."
  "${PYTHON:-python3}" -m venv "$VENV"
  "$VENV/bin/python" -m pip install --quiet --upgrade pip
  "$VENV/bin/python" -m pip install --quiet --quiet -e '.[test,analysis]'
  echo "$WANTED" > "$STAMP"
fi
