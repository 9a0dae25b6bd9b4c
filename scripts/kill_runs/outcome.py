"""Collect the facts that two runs must share, bit by bit."""

import json
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from tensorboard.backend.event_processing import event_accumulator

_TIMING = "train/images_per_second"
_EVENTS = "events.out.tfevents."


def outcome(workdir: pathlib.Path) -> dict[str, Any]:
  """Return what a finished run left in a local workdir.

  Returns:
    The names of all files; the CRC-32 of every array of every checkpoint; the
    lines of metrics.jsonl; result.json; the points that TensorBoard's reader
    sees. Timings are left out.
  """
  facts: dict[str, Any] = {"files": _files(workdir)}
  for checkpoint in sorted((workdir / "checkpoints").glob("*")):
    if checkpoint.name.isdecimal():
      facts |= _checkpoint(checkpoint)
  for name in ("metrics.jsonl", "result.json"):
    file = workdir / name
    lines = file.read_text().splitlines(True) if file.exists() else []
    facts[name] = [_without_timing(line) for line in lines]
  return facts | _events(workdir)


def differences(
  expected: Mapping[str, Any], found: Mapping[str, Any]
) -> list[str]:
  """Return one line for each fact of `outcome` that differs, by its name."""
  lines = []
  for name in sorted(expected.keys() | found.keys()):
    first, second = expected.get(name, []), found.get(name, [])
    if first != second:
      missing = [item for item in first if item not in second]
      added = [item for item in second if item not in first]
      detail = f"missing {missing}, in addition {added}"
      if not missing and not added:
        detail = f"{second} in place of {first}"
      lines.append(f"{name}: {detail[:300]}")
  return lines


def _files(workdir: pathlib.Path) -> list[str]:
  """Return the names in a workdir and in its directories, without events."""
  paths = [*workdir.glob("*"), *workdir.glob("*/*")]
  names = (str(path.relative_to(workdir)) for path in paths)
  return sorted(name for name in names if _EVENTS not in name)


def _checkpoint(path: pathlib.Path) -> dict[str, Any]:
  """Return the CRC-32 of each array of a checkpoint, by its path."""
  try:
    state = ocp.StandardCheckpointer().restore(path / "state")
  except Exception as error:  # each storage layer reports damage differently
    return {f"checkpoint {path.name}": [f"can't be read: {error}"]}
  return {
    f"checkpoint {path.name} {jax.tree_util.keystr(key)}": [
      zlib.crc32(np.asarray(array).tobytes())
    ]
    for key, array in jax.tree_util.tree_leaves_with_path(state)
  }


def _without_timing(line: str) -> Any:
  """Return what a line says but the timing; the line itself if it is no log."""
  try:
    return {k: v for k, v in json.loads(line).items() if k != _TIMING}
  except (ValueError, AttributeError):
    return line


def _events(workdir: pathlib.Path) -> dict[str, Any]:
  """Return the points of each scalar and the steps of each image."""
  everything = {"scalars": 0, "images": 0, "tensors": 0}
  reader = event_accumulator.EventAccumulator(str(workdir), everything)
  reader.Reload()
  tags = reader.Tags()
  facts: dict[str, Any] = {
    f"TensorBoard {tag}": [(p.step, p.value) for p in reader.Scalars(tag)]
    for tag in tags["scalars"]
    if tag != _TIMING
  }
  for tag in tags["images"]:
    facts[f"TensorBoard {tag}"] = [p.step for p in reader.Images(tag)]
  facts["TensorBoard tensors"] = sorted(tags["tensors"])
  return facts
