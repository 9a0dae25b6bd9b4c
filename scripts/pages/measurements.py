"""Files of measurements in docs/numbers, which benchmarks and scripts write."""

import dataclasses
import json
import pathlib
from typing import Any

from etils import epath

from sam_jax.runs import files
from scripts import provenance

REPOSITORY = pathlib.Path(__file__).parents[2]
DIRECTORY = REPOSITORY / "docs/numbers"


@dataclasses.dataclass(frozen=True)
class Measurement:
  """A file of measurements.

  Attributes:
    name: Name of the file without .json.
    made: Command, date, machine and versions. `recorded` says how the numbers
      came here, where the command did not write the file.
    facts: What was measured.
    rows: The rows of a table; none of a command whose output was recorded.
    output: Lines that the command printed.
    costs: CPU seconds and memory of a command whose output was recorded.
  """

  name: str
  made: dict[str, Any]
  facts: dict[str, Any]
  rows: list[dict[str, Any]]
  output: list[str]
  costs: dict[str, float]

  @property
  def command(self) -> str:
    """Return the command with a link to the file."""
    return f"`{self.made['command']}` ([file](numbers/{self.name}.json))"

  @property
  def circumstances(self) -> str:
    """Return when and where the command ran."""
    recorded = f", {self.made['recorded']}" if "recorded" in self.made else ""
    return provenance.show(self.made) + recorded


def read(name: str) -> Measurement:
  """Read a file of measurements."""
  text = (DIRECTORY / f"{name}.json").read_text(encoding="utf-8")
  content = json.loads(text)
  made, facts = content.pop("made"), content.pop("facts", {})
  rows, output = content.pop("rows", []), content.pop("output", [])
  return Measurement(name, made, facts, rows, output, content)


def write(path: epath.PathLike, content: dict[str, Any]) -> None:
  """Write a file of measurements; the order of the columns is kept."""
  text = json.dumps(content, indent=1, default=str, ensure_ascii=False)
  files.write_atomically(path, f"{text}\n")
