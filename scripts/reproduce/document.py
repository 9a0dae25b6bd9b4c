"""Write the results of experiments as Markdown."""

import os
from collections.abc import Mapping

import jax
from etils import epath

from sam_jax.reports import markdown
from sam_jax.runs import files
from scripts.reproduce.claims import RULE, Claim
from scripts.reproduce.digits import NUM_TEST, NUM_TRAIN, NUM_VALIDATION
from scripts.reproduce.experiments import EXPERIMENTS
from scripts.reproduce.experiments.section import Section
from scripts.reproduce.trained_networks import TrainedNetworks


def write_document(
  path: epath.Path,
  figures: epath.Path,
  sections: Mapping[str, Section],
  networks: TrainedNetworks,
) -> None:
  """Write the document and its figures.

  Args:
    path: The Markdown file.
    figures: Directory of the figures; it is created.
    sections: Results of the experiments, by name.
    networks: The networks of the experiments.
  """
  figures.mkdir(parents=True, exist_ok=True)
  lines = [*_introduction(networks), *_verdicts(sections)]
  for name, section in sections.items():
    letter = "abcdefghi"[list(EXPERIMENTS).index(name)]
    lines += ["", f"## {letter}. {section.title}", "", section.text, ""]
    lines += markdown.table(section.header, section.rows)
    if section.draw:
      figure = figures / f"{name}.png"
      section.draw(figure)
      link = os.path.relpath(figure, path.parent)
      caption = section.caption
      lines += ["", f"![{caption}]({link})", "", f"*{caption}*"]
  files.write_atomically(path, "\n".join(lines) + "\n")


def _introduction(networks: TrainedNetworks) -> list[str]:
  minutes = sum(networks.seconds.values()) / 60
  return [
    "# The paper in miniature",
    "",
    "Written by `python -m scripts.reproduce`; every number is from that run:"
    f" {minutes:.1f} minutes of processor time, shared among {os.cpu_count()}"
    f" CPU cores, jax {jax.__version__}.",
    "",
    "Networks with two hidden layers, trained for"
    f" {networks.num_epochs} epochs on {NUM_TRAIN} of scikit-learn's 1,797"
    " handwritten digits, batches of 64,"
    " momentum 0.9, a cosine schedule, weight decay 5e-4, and SAM with m = 16"
    f" unless stated otherwise. {NUM_VALIDATION} digits choose hyperparameters,"
    f" {NUM_TEST:,} are tested on. All means are over"
    f" {networks.num_seeds} seeds, each with a split of its own, and ± is half"
    " of Student's 95% interval."
    " Small networks on small images say nothing about the paper's own tables:"
    " this shows which effects are there at this scale.",
    "",
    "All splits are of the same images, and overlap. So the intervals cover"
    " other splits, initializations and orders of examples, but not other"
    " images: for those they are too narrow. Nor do they cover rounding, which"
    " decides between hyperparameters that validation finds about equal: an"
    " earlier run, with sums in another order, gave 8 of the 26 verdicts below"
    " otherwise, most of them on m and on ascent steps.",
    "",
  ]


def _verdicts(sections: Mapping[str, Section]) -> list[str]:
  rows = [
    (
      claim.statement,
      claim.source,
      _difference(claim),
      f"**{claim.verdict}**",
    )
    for section in sections.values()
    for claim in section.claims
  ]
  header = ("claim", "source", "difference", "verdict")
  return [
    "## Verdicts",
    "",
    f"{RULE} Differences are those of the claim: negative where the first is"
    " lower.",
    "",
    f"These are {len(rows)} verdicts, each from a 95% interval and none"
    " corrected for the others: about"
    f" {max(1, round(0.05 * len(rows)))} of so many intervals can be expected"
    " to miss its true value by chance. Training amplifies rounding, so another"
    " machine or compiler trains other networks from the same seeds, and may"
    " choose other hyperparameters where two are as good: a verdict whose"
    " interval ends close to zero, or to the margin, can turn.",
    "",
    *markdown.table(header, rows),
  ]


def _difference(claim: Claim) -> str:
  mean, half = claim.difference
  unit = f" {claim.unit}" if claim.unit else ""
  digits = 2 if claim.unit else 3
  return f"{mean:+.{digits}f} ± {half:.{digits}f}{unit}"
