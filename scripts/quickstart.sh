#!/usr/bin/env bash
# Makes the environment, trains SGD and SAM on digits with noisy labels, and
# compares them. Two minutes on two cores, installation apart.
# Usage: bash scripts/quickstart.sh [directory of the runs]
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/environment.sh
VENV="${VENV:-.venv}"

RUNS="${1:-runs/quickstart}"
for optimizer in sgd sam; do
  echo
  echo "=== Training with $optimizer ==="
  "$VENV/bin/python" -m sam_jax.train \
    --config="configs/digits.py:$optimizer" --workdir="$RUNS/$optimizer"
done
echo
"$VENV/bin/python" -m sam_jax.report --root="$RUNS" --output="$RUNS"
echo
echo "Curves, images and hyperparameters in the browser:"
echo "  $VENV/bin/tensorboard --logdir=$RUNS"
echo "The environment of sam_jax's commands:"
echo "  source $VENV/bin/activate"
