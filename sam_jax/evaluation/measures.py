"""Measures of predictions: error, likelihood, calibration, confusion."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Outcomes = Mapping[str, np.ndarray]

CALIBRATION_BINS = 15


def collect(batches: Iterable[Outcomes]) -> dict[str, np.ndarray]:
  """Concatenate batches of `TrainedRun.outcomes`."""
  parts = list(batches)
  return {name: np.concatenate([b[name] for b in parts]) for name in parts[0]}


def summary(outcomes: Outcomes, num_classes: int) -> dict[str, float]:
  """Return the mean measures of all examples.

  Args:
    outcomes: Arrays [N] as in `TrainedRun.outcomes`.
    num_classes: Number of classes.

  Returns:
    `error_rate`, `top_5_error_rate` with more than 5 classes, `nll` (mean
    cross-entropy, in nats) and `ece`, see `calibration_error`. If images have
    sets of labels: `real_error_rate`, the part of the images with a set that
    are predicted as a class that is not in it (Beyer et al., 2020).
  """
  is_right = outcomes["prediction"] == outcomes["label"]
  values = {"error_rate": np.mean(~is_right)}
  if num_classes > 5:
    values["top_5_error_rate"] = np.mean(~outcomes["is_in_top_5"])
  values["nll"] = np.mean(outcomes["nll"], dtype=np.float64)
  values["ece"] = calibration_error(outcomes["confidence"], is_right)
  if "has_label_set" in outcomes:
    is_in_set = outcomes["is_in_label_set"][outcomes["has_label_set"]]
    values["real_error_rate"] = np.mean(~is_in_set)
  return {name: float(value) for name, value in values.items()}


def calibration_error(
  confidence: np.ndarray, is_right: np.ndarray, bins: int = CALIBRATION_BINS
) -> float:
  """Return the expected calibration error (ECE).

  Examples are sorted into bins of equal width by their confidence, the largest
  probability: bin i holds those in ((i - 1) / bins, i / bins]. The error is the
  mean, over all examples, of abs(accuracy - mean confidence) of their bin.

  Args:
    confidence: float [N], in [0, 1].
    is_right: bool [N], True where the prediction is the label.
    bins: Number of bins.

  Reference: Guo et al. (ICML 2017), equation 3.
  """
  confidence = confidence.astype(np.float64)
  index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
  gaps = np.bincount(index, is_right - confidence, minlength=bins)
  return float(np.sum(np.abs(gaps)) / len(confidence))


def confusion_matrix(outcomes: Outcomes, num_classes: int) -> np.ndarray:
  """Count examples by label (rows) and prediction (columns).

  Returns:
    int64 [classes, classes].
  """
  pairs = outcomes["label"].astype(np.int64) * num_classes
  pairs += outcomes["prediction"]
  counts = np.bincount(pairs, minlength=num_classes**2)
  return counts.reshape(num_classes, num_classes)


def class_rows(
  confusion: np.ndarray, names: tuple[str, ...]
) -> list[dict[str, Any]]:
  """Return the measures of each class.

  Args:
    confusion: See `confusion_matrix`.
    names: Names of the classes.

  Returns:
    For each class `class` (its name), `examples`, `error_rate` (None without
    examples), `predicted` (how many examples it was predicted for), `precision`
    (the right part of these; None if there are none), and `taken_for`, the
    class that most of its errors are predicted as ("" without errors).
  """
  rows = []
  for number, name in enumerate(names):
    of_label = confusion[number].copy()
    examples, right = int(of_label.sum()), int(of_label[number])
    predicted = int(confusion[:, number].sum())
    of_label[number] = 0
    taken_for = names[int(of_label.argmax())] if of_label.any() else ""
    rows.append(
      {
        "class": name,
        "examples": examples,
        "error_rate": 1 - right / examples if examples else None,
        "predicted": predicted,
        "precision": right / predicted if predicted else None,
        "taken_for": taken_for,
      }
    )
  return rows
