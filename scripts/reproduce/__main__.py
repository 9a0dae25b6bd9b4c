"""The paper in miniature: all its experiments on digits, and what they show.

python -m scripts.reproduce

Writes REPRODUCTION.md, with pictures. Results are kept in --results one by one:
the same command goes on where it was stopped. With some of the studies alone,
or of another size, --output must say where else to write. Exit code 2: it could
not start.
"""

import pathlib
import sys
import time

from absl import app, flags, logging

from sam_jax.config.cli import make_directory, parse_flags, refuse

_REPOSITORY = pathlib.Path(__file__).parents[2]
_OUTPUT = flags.DEFINE_string(
  "output", None, "Markdown file to write; default: REPRODUCTION.md."
)
_PICTURES = flags.DEFINE_string(
  "pictures", None, "Their directory; default: assets/reproduction beside it."
)
_RESULTS = flags.DEFINE_string(
  "results",
  str(_REPOSITORY / "runs/reproduction.json"),
  "File of results; remove it to compute all of them again.",
)
_SEEDS = flags.DEFINE_integer("seeds", 10, "Seeds of every setting.", 2)
_EPOCHS = flags.DEFINE_integer("epochs", 100, "Length of a training.", 1)
_STUDY = flags.DEFINE_multi_string("study", [], "Only these; default: all.")


def main(argv: list[str]) -> None:
  """Runs the studies and writes the document."""
  if argv[1:]:
    refuse(f"Unexpected arguments: {' '.join(argv[1:])}")
  logging.set_verbosity(logging.WARNING)
  # Imported late: a mistyped flag is reported without waiting for JAX.
  from sam_jax.analysis.result_cache import ResultCache
  from sam_jax.config.schema import did_you_mean
  from scripts.reproduce.document import write_document
  from scripts.reproduce.laboratory import Laboratory
  from scripts.reproduce.studies import STUDIES

  for name in _STUDY.value:
    if name not in STUDIES:
      refuse(f"--study={name} is unknown. {did_you_mean(name, STUDIES)}")
  output, pictures = _outputs()
  lab = Laboratory(ResultCache(_RESULTS.value), _SEEDS.value, _EPOCHS.value)
  found = {}
  started = time.perf_counter()
  for name in _STUDY.value or STUDIES:
    found[name] = STUDIES[name](lab)
    minutes = (time.perf_counter() - started) / 60
    print(f"[{minutes:4.1f} min] {found[name].title}", file=sys.stderr)
    for claim in found[name].claims:
      print(f"  {claim.statement}: {claim.verdict}", file=sys.stderr)
  write_document(output, pictures, found, lab)
  print(f"Written: {output}")


def _outputs() -> tuple[pathlib.Path, pathlib.Path]:
  """The document, and the directory of its pictures."""
  if not _OUTPUT.value:
    for flag in (_STUDY, _SEEDS, _EPOCHS):
      if flag.value != flag.default:
        refuse(
          f"--output is missing: with --{flag.name} it isn't the whole of"
          " REPRODUCTION.md, which it would replace."
        )
  output = _REPOSITORY / "REPRODUCTION.md"
  if _OUTPUT.value:
    output = pathlib.Path(_OUTPUT.value).absolute()
  make_directory("output", output.parent)
  beside = output.parent / "assets/reproduction"
  return output, make_directory("pictures", _PICTURES.value or beside)


if __name__ == "__main__":
  app.run(main, flags_parser=parse_flags)
