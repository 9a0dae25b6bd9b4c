"""The paper's experiments in miniature, in the order of the document."""

from collections.abc import Callable

from scripts.reproduce.experiments import error_rates, sharpness
from scripts.reproduce.experiments.section import Section
from scripts.reproduce.trained_networks import TrainedNetworks

EXPERIMENTS: dict[str, Callable[[TrainedNetworks], Section]] = {
  "equal_cost": error_rates.equal_cost,
  "label_noise": error_rates.label_noise,
  "group_size": error_rates.group_size,
  "radius": error_rates.radius,
  "curvature": sharpness.curvature,
  "prediction": sharpness.prediction,
  "ascent_steps": error_rates.ascent_steps,
  "norms": error_rates.norms,
  "second_order": error_rates.second_order,
}
