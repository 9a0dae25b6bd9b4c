#!/usr/bin/env bash
# Makes the environment, trains SGD and SAM on digits with noisy labels, and
# compares them. Half a minute on two cores, installation apart.
# Usage: bash scripts/quickstart.sh [directory of the runs]; its default is
# runs/quickstart in the checkout.
set -euo pipefail
bash "$(dirname "$0")/environment.sh"
# Relative paths are those of where the command was typed.
[[ "${VENV:-/}" == /* ]] || VENV="$PWD/$VENV"
RUNS="${1:-runs/quickstart}"
[[ "${1:-/}" == /* || "$RUNS" == *://* ]] || RUNS="$PWD/$RUNS"
cd "$(dirname "$0")/.."
VENV="${VENV:-.venv}"

trap 'exit 130' INT # else a Ctrl-C that a run has handled starts the next one
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
echo "The same on Fashion-MNIST (docs/data.md): --config.dataset.name=fashion_mnist"
echo "The environment of sam_jax's commands:"
echo "  source $VENV/bin/activate"
