"""Rank trained networks by measures, and compare with their test errors.

Jiang et al. (ICLR 2020) and Andriushchenko et al. (ICML 2023) do so by
Kendall's rank correlation.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from sam_jax.analysis import measure_plots
from sam_jax.analysis.compare import Comparison, describe_examples
from sam_jax.analysis.generalization_score import (
  RankCorrelation,
  rank_correlation,
)
from sam_jax.analysis.measure import MeasuredRun
from sam_jax.analysis.measure_names import Measure
from sam_jax.analysis.measured_network import MeasuredNetwork
from sam_jax.analysis.monte_carlo import Estimate
from sam_jax.reports import markdown
from sam_jax.runs import files


class MeasuredRuns(NamedTuple):
  """The measures of several runs.

  Attributes:
    test_errors: Test error of each run by its label, in [0, 1].
    estimates: Estimates by the text of the measure, in the order of the runs.
  """

  test_errors: dict[str, float]
  estimates: dict[str, list[Estimate]]

  def values(self, text: str) -> np.ndarray:
    """Return the values of a measure, float64 [runs]; nan: not finite."""
    return np.array([each.value for each in self.estimates[text]])

  def correlation(self, text: str) -> RankCorrelation:
    """Return the rank correlation of a measure and the test errors.

    Runs whose measure is not finite are left out.
    """
    values = self.values(text)
    is_finite = np.isfinite(values)
    errors = np.array(list(self.test_errors.values()))
    return rank_correlation(values[is_finite], errors[is_finite])


def compare_measures(
  runs: Sequence[MeasuredRun],
  output: epath.Path,
  measures: Sequence[Measure],
  seed: int = 0,
) -> Comparison:
  """Measure runs, and compare each measure with the test errors.

  Args:
    runs: Runs to compare.
    output: Directory of measures.json and, from two runs on, of the picture.
    measures: Measures to compare.
    seed: Seed of random vectors.

  Raises:
    ValueError: There are too few examples for a measure.
  """
  for run in runs:
    for measure in measures:
      measure.check(len(run.examples["label"]))
  networks = _Networks()
  errors, rows = {}, []
  for run in runs:
    errors[run.label] = _test_error(run)
    network = networks.of(run)
    rows.append([_measure(run, network, each, seed) for each in measures])
  columns = zip(*rows, strict=True)
  found = MeasuredRuns(
    errors,
    {
      measure.text: list(column)
      for measure, column in zip(measures, columns, strict=True)
    },
  )
  lines = _table(found)
  files.write_json(output / "measures.json", _json_of(found, measures))
  if len(runs) == 1:
    return Comparison(lines, [])
  path = output / "measures.png"
  measure_plots.plot_measures(
    found.test_errors,
    {text: found.values(text) for text in found.estimates},
    {text: found.correlation(text).tau for text in found.estimates},
    describe_examples(runs),
    path,
  )
  return Comparison([*lines, "", *_ranking(found)], [path])


class _Networks:
  """Networks of runs: those that are equal share their compiled programs."""

  def __init__(self) -> None:
    self._known: list[tuple[MeasuredRun, MeasuredNetwork]] = []

  def of(self, run: MeasuredRun) -> MeasuredNetwork:
    """Return the network of a run, or of an earlier one that is equal."""
    for other, network in self._known:
      is_equal = (
        run.run.model == other.run.model
        and run.run.spec == other.run.spec
        and run.run.loss == other.run.loss
        and run.batch_size == other.batch_size
      )
      if is_equal and all(
        np.array_equal(run.examples[name], other.examples[name])
        for name in run.examples
      ):
        return network
    network = MeasuredNetwork(
      run.run.model,
      run.run.preprocess,
      run.examples,
      run.batch_size,
      run.run.loss,
    )
    self._known.append((run, network))
    return network


def _test_error(run: MeasuredRun) -> float:
  """Return the error of a run on the data that it was evaluated on."""

  def compute(key: dict[str, Any], advance: Any) -> float:
    misses = [
      batch["prediction"] != batch["label"]
      for batch in run.run.outcomes(run.run.dataset, "test")
    ]
    return float(np.concatenate(misses).mean())

  (found,) = run.results("test error", [{"test_error": "all"}], compute)
  return found


def _measure(
  run: MeasuredRun, network: MeasuredNetwork, measure: Measure, seed: int
) -> Estimate:
  """Return an estimate, from the cache of the run or computed."""
  key = {"measure": measure.name, "seed": seed, **measure.options}
  if "p" in key:  # JSON has no infinity
    key["p"] = f"{key['p']:g}"
  work = measure.work(len(run.examples["label"]))
  ((value, error),) = run.results(
    measure.text,
    [key],
    lambda _, advance: list(measure(network, run.run.variables, seed, advance)),
    work,
  )
  return Estimate(math.nan if value is None else value, error)


def _table(found: MeasuredRuns) -> list[str]:
  """Return a table with a row for each run."""
  rows = []
  for number, (label, error) in enumerate(found.test_errors.items()):
    cells = [
      _format_estimate(column[number]) for column in found.estimates.values()
    ]
    rows.append([label, f"{100 * error:.2f}", *cells])
  return markdown.table(["run", "test error (%)", *found.estimates], rows, 1)


def _ranking(found: MeasuredRuns) -> list[str]:
  """Return a table of measures, the best one first."""
  correlations = {text: found.correlation(text) for text in found.estimates}

  def order(text: str) -> float:
    tau = correlations[text].tau
    return math.inf if math.isnan(tau) else -tau

  rows = []
  for text in sorted(correlations, key=order):
    tau, low, high, p_value = correlations[text]
    used = int(np.isfinite(found.values(text)).sum())
    interval = f"{low:.2f}, {high:.2f}" if math.isfinite(low) else ""
    tau_text = f"{tau:.2f}" if math.isfinite(tau) else ""
    p_text = f"{p_value:.2g}" if math.isfinite(p_value) else ""
    rows.append([text, tau_text, interval, p_text, str(used)])
  header = ["measure", "Kendall's tau", "95% interval", "p-value", "runs"]
  return [
    "Rank correlation with the test error:",
    "",
    *markdown.table(header, rows, 1),
  ]


def _format_estimate(estimate: Estimate) -> str:
  """Return four digits, with the standard error if there is one."""
  if not math.isfinite(estimate.value):
    return "not finite"
  text = f"{estimate.value:.4g}"
  if estimate.standard_error is None:
    return text
  one_digit = float(f"{estimate.standard_error:.1g}")
  return f"{text} ± {one_digit:g}"  # 40, not 4e+01


def _json_of(
  found: MeasuredRuns, measures: Sequence[Measure]
) -> dict[str, Any]:
  """Return the numbers as JSON values; None for those that are not finite."""

  def number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

  return {
    "test_errors": found.test_errors,
    "measures": [
      {
        "measure": measure.text,
        "options": {
          name: f"{value:g}" if value == math.inf else value
          for name, value in measure.options.items()
        },
        "values": {
          label: [number(each) for each in estimate]
          for label, estimate in zip(
            found.test_errors, found.estimates[measure.text], strict=True
          )
        },
        "rank_correlation": {
          name: number(value)
          for name, value in found.correlation(measure.text)._asdict().items()
        },
      }
      for measure in measures
    ],
  }
