#!/usr/bin/env bash
# Fine-tunes a converted network with SAM on a folder of photographs, offline:
# images, conversion from timm's format, training, evaluation, and predictions by
# name. 100 CPU seconds, about a minute on two idle cores, installation apart. The
# weights to start from are random, because nothing can be fetched offline: the
# demonstration shows the commands, and not what pretraining is good for. The
# error was 37.5% on 48 images, and 66.7% is that of a guess.
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
"$PYTHON" -m scripts.timm_weights "$RUNS/timm"
echo
echo "=== Conversion ==="
"$PYTHON" -m sam_jax.convert --model=efficientnet_tiny \
  --input="$RUNS/timm" --output="$RUNS/efficientnet_tiny"
echo
echo "=== Fine-tuning on three classes ==="
"$PYTHON" -m sam_jax.train --config=configs/digits.py \
  --workdir="$RUNS/three_classes" \
  --config.pretrained="$RUNS/efficientnet_tiny" \
  --config.model.name=efficientnet_tiny --config.dataset.image_size=32 \
  --config.dataset.name=image_folder --config.dataset.data_dir="$RUNS/photos" \
  --config.dataset.label_noise.rate=0 --config.augment.policy=basic \
  --config.batch_size=20 --config.sam.m=20 --config.sam.rho=0.05 \
  --config.num_epochs=8 --config.optimizer.learning_rate=0.1 \
  --config.log_every_steps=6
echo
"$PYTHON" -m sam_jax.evaluate --workdir="$RUNS/three_classes"
echo
echo "=== Predictions for images without labels ==="
"$PYTHON" -m sam_jax.evaluate --workdir="$RUNS/three_classes" \
  --data="$RUNS/photos/val/portrait" --output="$RUNS/predictions"
head -n 4 "$RUNS/predictions/predictions.csv"
