"""Repeat the paper's experiments in miniature, on handwritten digits.

python -m scripts.reproduce

The command writes REPRODUCTION.md with its figures. It saves every result in
--results: the same command resumes where it was stopped. For some experiments
only, or for another size, give another file to write by --output. Exit code 2:
it could not start.
"""

import os
import pathlib
import sys
import time

from absl import flags, logging
from etils import epath

from sam_jax.config import cli
from sam_jax.runs import compilation

_REPOSITORY = pathlib.Path(__file__).parents[2]
_OUTPUT = flags.DEFINE_string(
  "output", None, "Markdown file to write; default: REPRODUCTION.md."
)
_FIGURES = flags.DEFINE_string(
  "figures",
  None,
  "Directory of the figures; default: assets/reproduction next to --output.",
)
_RESULTS = flags.DEFINE_string(
  "results",
  str(_REPOSITORY / "runs/reproduction.json"),
  "File of results; remove it to compute all of them again.",
)
_SEEDS = flags.DEFINE_integer("seeds", 10, "Seeds of every hyperparameter.", 2)
_EPOCHS = flags.DEFINE_integer("epochs", 100, "Length of a training.", 1)
_EXPERIMENT = flags.DEFINE_multi_string(
  "experiment", [], "Run only these experiments; default: all."
)


def main(argv: list[str]) -> None:
  """Run the experiments and write the document."""
  cli.check_arguments(argv)
  logging.set_verbosity(logging.WARNING)
  # A training takes one core: its operations are too small to share.
  compilation.add_xla_flag(
    f"--xla_force_host_platform_device_count={os.cpu_count()}"
  )
  # Imported late: a mistyped flag is reported without waiting for JAX.
  from sam_jax.analysis.result_cache import ResultCache
  from sam_jax.config.hints import did_you_mean
  from scripts.reproduce.document import write_document
  from scripts.reproduce.experiments import EXPERIMENTS
  from scripts.reproduce.trained_networks import TrainedNetworks

  for name in _EXPERIMENT.value:
    if name not in EXPERIMENTS:
      hint = did_you_mean(name, EXPERIMENTS)
      cli.refuse(f"--experiment={name} is unknown. {hint}")
  output, figures = _outputs()
  results = ResultCache(cli.make_file("results", _RESULTS.value))
  networks = TrainedNetworks(results, _SEEDS.value, _EPOCHS.value)
  sections = {}
  started = time.perf_counter()
  for name in _EXPERIMENT.value or EXPERIMENTS:
    sections[name] = EXPERIMENTS[name](networks)
    minutes = (time.perf_counter() - started) / 60
    print(f"[{minutes:4.1f} min] {sections[name].title}", file=sys.stderr)
    for claim in sections[name].claims:
      print(f"  {claim.statement}: {claim.verdict}", file=sys.stderr)
  write_document(output, figures, sections, networks)
  print(f"Written: {output}")


def _outputs() -> tuple[epath.Path, epath.Path]:
  """Return the path of the document and the directory of its figures."""
  if not _OUTPUT.value:
    for flag in (_EXPERIMENT, _SEEDS, _EPOCHS):
      if flag.value != flag.default:
        cli.refuse(
          f"--output is missing: with --{flag.name} the result would replace"
          " REPRODUCTION.md without being the whole of it."
        )
  default = _REPOSITORY / "REPRODUCTION.md"
  output = cli.make_file("output", _OUTPUT.value or default)
  default = output.parent / "assets/reproduction"
  return output, cli.make_directory("figures", _FIGURES.value or default)


if __name__ == "__main__":
  cli.run(main)
