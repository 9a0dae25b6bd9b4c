#!/usr/bin/env bash
# Writes constraints/: for each Python the newest versions that pyproject.toml
# allows, and the oldest. Run it after a change of the requirements, or to move
# to new releases; then scripts/matrix.sh.
# Usage: bash scripts/lock.sh
set -euo pipefail
cd "$(dirname "$0")/.."

TOOLS="$(mktemp -d)"
trap 'rm -rf "$TOOLS"' EXIT
"${PYTHON:-python3}" -m venv "$TOOLS"
"$TOOLS/bin/python" -m pip install --quiet uv

# Wheels only, so that no version is chosen whose wheels are for other Pythons;
# promise, of TFDS, has none.
lock() {
  local version="$1" resolution="$2" output="constraints/$3"
  echo "$output"
  rm -f "$output" # uv would keep the versions in it
  UV_CUSTOM_COMPILE_COMMAND="bash scripts/lock.sh" \
    "$TOOLS/bin/uv" pip compile pyproject.toml --quiet --all-extras \
    --python-version="$version" --python-platform=x86_64-manylinux_2_31 \
    --resolution="$resolution" --only-binary=:all: --no-binary=promise \
    --no-annotate --no-emit-index-url --no-emit-find-links \
    --output-file="$output" >/dev/null
}

mkdir -p constraints
for version in 3.11 3.12 3.13; do
  lock "$version" highest "py${version/./}.txt"
  lock "$version" lowest-direct "py${version/./}-oldest.txt"
done
