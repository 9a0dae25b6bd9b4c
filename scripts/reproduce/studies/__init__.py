"""The paper's experiments at the size of a level."""

from collections.abc import Callable

from scripts.reproduce.runs import Runs
from scripts.reproduce.studies import comparison, perturbations, sharpness
from scripts.reproduce.studies.section import Section

STUDIES: dict[str, Callable[[Runs], Section]] = {
  "comparison": comparison.comparison,
  "time_to_accuracy": comparison.time_to_accuracy,
  "label_noise": comparison.label_noise,
  "augmentation": comparison.augmentation,
  "fine_tuning": comparison.fine_tuning,
  "m_sharpness": perturbations.m_sharpness,
  "radius": perturbations.radius,
  "ascent_steps": perturbations.ascent_steps,
  "norms": perturbations.norms,
  "second_order": perturbations.second_order,
  "curvature": sharpness.curvature,
  "prediction": sharpness.prediction,
}
