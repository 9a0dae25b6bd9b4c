#!/usr/bin/env bash
# Makes the environment, trains SGD and SAM on digits with noisy labels, and
# compares them. Two minutes on two cores, installation apart.
# Usage: bash scripts/quickstart.sh [directory of the runs]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

RUNS="${1:-runs/quickstart}"
for optimizer in sgd sam; do
  echo
  echo "=== Training with $optimizer ==="
  "$VENV/bin/python" -m sam_jax.train \
    --config="configs/digits.py:$optimizer" --workdir="$RUNS/$optimizer"
done
echo
"$VENV/bin/python" scripts/compare_runs.py "$RUNS/sgd" "$RUNS/sam"
echo
echo "Curves, images and hyperparameters in the browser:"
echo "  $VENV/bin/tensorboard --logdir=$RUNS"
