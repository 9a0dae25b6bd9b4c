"""The parts of pages: their files of measurements, and how they are shown."""

import dataclasses
from collections.abc import Sequence

from sam_jax.config import schema
from sam_jax.datasets import listing as datasets
from sam_jax.models import listing as networks
from scripts.pages import tables
from scripts.pages.measurements import Measurement
from scripts.pages.tables import Render, table


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of a page.

  Attributes:
    files: Names of files in docs/numbers, without .json.
    render: Measurements of these files -> lines of Markdown.
  """

  files: tuple[str, ...]
  render: Render


def _networks(found: Sequence[Measurement]) -> list[str]:
  del found  # their file belongs to the package, whose command prints it
  return networks.table(networks.stored_sizes())


def _datasets(found: Sequence[Measurement]) -> list[str]:
  del found
  return datasets.table()


def _fields(found: Sequence[Measurement]) -> list[str]:
  del found
  return schema.markdown_table().splitlines()


SECTIONS = {
  # README.md
  "quickstart": Section(
    ("quickstart_report",), tables.printed(r"^\|", with_sources=False)
  ),
  # docs/results.md
  "small_vits": Section(("vit_digits",), tables.printed(r"^\|")),
  # docs/models.md and docs/config.md
  "networks": Section((), _networks),
  "datasets": Section((), _datasets),
  "fields": Section((), _fields),
  # docs/performance.md
  "steps": Section(
    (
      "step_wrn16_4",
      "step_wrn28_10",
      "step_wrn28_10_small_batch",
      "step_shake_shake_mini",
      "step_pyramidnet29_shakedrop",
      "step_resnet32",
      "step_resnet50",
      "step_efficientnet_b0",
    ),
    tables.steps,
  ),
  "torch": Section(
    ("torch_wrn16_2", "torch_wrn16_4"),
    table(
      {
        "network": "model",
        "batch": "batch",
        "step": "step",
        "over PyTorch's": "over PyTorch",
      },
      lambda row: row["step"].startswith("sam_jax"),
      3,
    ),
  ),
  "loop": Section(
    ("loop_digits", "loop_wrn28_10"),
    table({"network": "model", "loop over bare step": "loop over bare"}),
  ),
  "m": Section(
    ("m",),
    table(
      {
        "m": "m",
        "time over that of m = 32": "over m = 32",
        "temporary memory, copies": "temporary copies",
      },
      text_columns=0,
    ),
  ),
  "communication": Section(
    ("scale",),
    table(
      {
        "step": "step",
        "devices": "devices",
        "collectives traced": "collectives traced",
        "combined by XLA": "combined",
        "volume, copies": "volume",
      },
      lambda row: row["devices"] > 1,
    ),
  ),
  "startup": Section(
    ("startup",),
    table({"start": "start", "seconds": "seconds to first step"}),
  ),
  "compilation": Section(
    (
      "compile_wrn28_10",
      "compile_shake_shake_26_2x96d",
      "compile_pyramidnet20",
      "compile_pyramidnet272",
      "compile_resnet50",
      "compile_efficientnet_b0",
      "compile_vit_s16",
    ),
    table(
      {
        "network": "network",
        "step": "step",
        "trace s": "trace s",
        "compile s": "compile s",
        "compile CPU s": "compile CPU s",
        "kernels": "kernels",
      },
      text_columns=2,
    ),
  ),
  "compilation_for_tpus": Section(
    (
      "compile_tpu_wrn10_2",
      "compile_tpu_wrn28_10",
      "compile_tpu_shake_shake_26_2x96d",
      "compile_tpu_pyramidnet110",
      "compile_tpu_resnet50",
      "compile_tpu_efficientnet_b0",
      "compile_tpu_vit_s16",
    ),
    table(
      {
        "network": "network",
        "slice": "topology",
        "step": "step",
        "trace CPU s": "trace CPU s",
        "compile CPU s": "compile CPU s",
      },
      text_columns=3,
    ),
  ),
  "input": Section(
    ("input",),
    table(
      {"data": "input", "part": "part", "images per CPU second": "images/s"},
      lambda row: row.get("part", "").startswith(("host", "device")),
      2,
    ),
  ),
  "convolutions": Section(
    ("convolutions",),
    table(
      {
        "step of WRN-10-4": "step",
        "s with the option": "s with the option",
        "s with the library": "s with the library",
      }
    ),
  ),
  "together": Section(
    ("together",),
    table(
      {
        "network": "network",
        "steps of a run": "steps of a run",
        "together over alone": "together over alone",
      }
    ),
  ),
  # docs/data.md
  "decoding": Section(
    ("input",),
    table(
      {
        "from JPEG to batch": "part",
        "images per CPU second": "images/s",
        "ours over it": "host over it",
      },
      lambda row: row.get("input") == "ImageNet" and "dev" not in row["part"],
    ),
  ),
  # docs/analysis.md
  "sharpness_and_hessian": Section(
    ("quickstart_sharpness", "quickstart_hessian"),
    tables.printed("m = 8:|eigenvalues|fifth"),
  ),
  "measures": Section(
    ("measures",),
    tables.printed(r"^(\|[^|]*){5}\|$"),  # the ranking
  ),
  "connectivity": Section(("connectivity",), tables.printed("barrier")),
  "hessian": Section(
    ("hessian",),
    table(
      {
        "network": "model",
        "gradient, CPU s": "gradient s",
        "product, CPU s": "product s",
        "product over gradient": "product over gradient",
      }
    ),
  ),
  "pyhessian": Section(
    ("pyhessian",),
    table(
      {
        "by": "by",
        "product, CPU s": "product s",
        "top 5, CPU s": "top 5 s",
        "top 5 over PyHessian's": "top 5 over PyHessian",
        "eigenvalues": "eigenvalues",
      },
    ),
  ),
  # docs/methods.md
  "methods": Section(
    ("methods_digits", "methods_fashion_mnist"), tables.comparison_of_methods
  ),
  # docs/runs.md and docs/after_training.md
  "sweep": Section(("sweep",), tables.printed()),
  "report": Section(("report",), tables.printed()),
  "evaluation": Section(("evaluate",), tables.printed(first=13)),
  # docs/pods.md and docs/pretrained.md
  "plan": Section(("plan_wrn28_10",), tables.printed()),
  "plan_costs": Section(("plan_wrn28_10", "plans"), tables.plan_costs),
  "precision": Section(
    ("rounding_wrn28_10", "rounding_resnet50"),
    table(
      {"network": "network", "in bfloat16": "bfloat16", "in TF32": "TF32"},
    ),
  ),
  "conversion": Section(("convert_l2",), tables.costs_of_commands),
}
