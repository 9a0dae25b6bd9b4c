#!/usr/bin/env bash
# Makes the environment, trains SGD and SAM on digits with noisy labels, both at
# the same time, and compares them. Within a minute on two cores, installation
# apart.
# Usage: bash scripts/quickstart.sh [directory of the runs]; its default is
# runs/quickstart in the checkout. The same command again resumes both.
# Exit codes: that of a training that failed; 130, interrupted.
set -euo pipefail

main() {
  bash "$(dirname "$0")/environment.sh"
  # Relative paths are those of where the command was typed.
  [[ "${VENV:-/}" == /* ]] || VENV="$PWD/$VENV"
  runs="${1:-runs/quickstart}"
  [[ "${1:-/}" == /* || "$runs" == *://* ]] || runs="$PWD/$runs"
  cd "$(dirname "$0")/.."
  bin="${VENV:-.venv}/bin"

  echo
  echo "=== Training with SGD and with SAM, at the same time ==="
  trap stop EXIT
  trap 'exit 130' INT # else Bash leaves Ctrl-C to a `sleep` that ends just then
  start sgd
  start sam
  wait_for_both
  trap - EXIT INT
  echo
  "$bin/python" -m sam_jax.report --root="$runs" --output="$runs"
  echo
  echo "Curves, images and hyperparameters in the browser:"
  echo "  $bin/tensorboard --logdir=$runs"
  echo "The same on Fashion-MNIST (docs/data.md): --config.dataset.name=fashion_mnist"
  echo "The environment of sam_jax's commands:"
  echo "  source $bin/activate"
}

# Starts one training. A network as small as this one keeps one core busy, and
# hardly gains from a second.
start() {
  (
    trap '' INT # or Ctrl-C ends `name_lines`; Python handles it nevertheless
    exec "$bin/python" -m sam_jax.train --config="configs/digits.py:$1" \
      --workdir="$runs/$1" > >(name_lines "$1" >&2) 2>&1
  ) &
  trainings+=($!)
}

# Puts a name before every line.
name_lines() {
  local line
  while IFS= read -r line; do echo "[$1]  $line"; done
}

# Ends the script as soon as a training has failed. `wait -n` would wait for the
# first one to end, but the bash of macOS does not know it.
wait_for_both() {
  local i
  while ((${#trainings[@]})); do
    sleep 0.2
    for i in "${!trainings[@]}"; do
      if ! kill -0 "${trainings[i]}" 2>/dev/null; then
        wait "${trainings[i]}"
        unset "trainings[i]"
      fi
    done
  done
}

# Lets what still trains save its state and stop.
stop() {
  kill $(jobs -rp) 2>/dev/null || true
  wait 2>/dev/null
}

main "$@"
