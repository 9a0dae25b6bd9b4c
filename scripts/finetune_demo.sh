#!/usr/bin/env bash
# Trains on a folder of photographs, offline: a network on two classes from
# scratch, the same network fine-tuned with SAM on three, its evaluation, and
# predictions by name. About a minute on two cores, installation apart.
# Usage: bash scripts/finetune_demo.sh [directory of the runs]; its default is
# runs/finetune_demo in the checkout.
set -euo pipefail
bash "$(dirname "$0")/environment.sh"
# Relative paths are those of where the command was typed.
[[ "${VENV:-/}" == /* ]] || VENV="$PWD/$VENV"
RUNS="${1:-runs/finetune_demo}"
[[ "${1:-/}" == /* || "$RUNS" == *://* ]] || RUNS="$PWD/$RUNS"
cd "$(dirname "$0")/.."
PYTHON="${VENV:-.venv}/bin/python"

"$PYTHON" -m scripts.photos "$RUNS/photos"
ours=(--config=configs/digits.py --config.dataset.label_noise.rate=0
  --config.dataset.name=image_folder --config.model.name=cnn4
  --config.batch_size=20 --config.sam.m=20 --config.augment.policy=basic
  --config.log_every_steps=4)

echo
echo "=== Two classes, from scratch ==="
"$PYTHON" -m sam_jax.train "${ours[@]}" --workdir="$RUNS/two_classes" \
  --config.dataset.data_dir="$RUNS/photos/two_classes.csv" \
  --config.num_epochs=4 --config.sam.rho=0.05
echo
echo "=== Three classes, fine-tuned ==="
"$PYTHON" -m sam_jax.train "${ours[@]}" --workdir="$RUNS/three_classes" \
  --config.dataset.data_dir="$RUNS/photos" \
  --config.pretrained="$RUNS/two_classes" --config.model.batch_norm=m \
  --config.num_epochs=6 --config.sam.rho=0.05 \
  --config.optimizer.learning_rate=0.03
echo
"$PYTHON" -m sam_jax.evaluate --workdir="$RUNS/three_classes"
echo
echo "=== Predictions for images without labels ==="
"$PYTHON" -m sam_jax.evaluate --workdir="$RUNS/three_classes" \
  --data="$RUNS/photos/val/portrait" --output="$RUNS/predictions"
head -n 4 "$RUNS/predictions/predictions.csv"
