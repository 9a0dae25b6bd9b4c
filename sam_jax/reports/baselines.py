"""Find the run without SAM that a run with SAM is compared with."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sam_jax.reports.results import NOTES, Group
from sam_jax.reports.run_records import NOISE_RATE


class Comparison(NamedTuple):
  """A group of runs with SAM and its baseline."""

  sam: Group
  baseline: Group

  @property
  def reduction(self) -> float:
    """The error reduction by SAM, in percent of the baseline's error."""
    return 100 * (1 - self.sam.mean() / self.baseline.mean())


def compare_with_baselines(groups: Sequence[Group]) -> list[Comparison]:
  """Return every group with SAM that has a baseline, and the best of these.

  As in figure 1 (left) of the paper, the baseline of N epochs with SAM is the
  better one of N and 2N epochs without SAM, all else being equal. Under label
  noise it is Mixup, as in the paper, if there are such runs.

  Args:
    groups: Finished runs, grouped over seeds.
  """
  without_sam: dict[frozenset[tuple[str, Any]], list[Group]] = {}
  for group in groups:
    if not group.fields["sam.rho"]:
      without_sam.setdefault(_shared_fields(group), []).append(group)
  comparisons = []
  for group in groups:
    epochs = group.fields["num_epochs"]
    candidates = [
      baseline
      for baseline in without_sam.get(_shared_fields(group), [])
      if baseline.fields["num_epochs"] in (epochs, 2 * epochs)
    ]
    with_mixup = [c for c in candidates if c.fields["augment.mixup_alpha"]]
    candidates = with_mixup or candidates
    if group.fields["sam.rho"] and candidates:
      best = min(candidates, key=Group.mean)
      if best.mean() > 0:
        comparisons.append(Comparison(group, best))
  return comparisons


def _shared_fields(group: Group) -> frozenset[tuple[str, Any]]:
  """Return the fields in which a group and its baseline agree."""
  free = {"num_epochs", NOTES}
  if group.fields[NOISE_RATE]:
    free.add("augment.mixup_alpha")
  # sam.m is shared: it also decides which examples share batch statistics.
  return frozenset(
    (name, value)
    for name, value in group.fields.items()
    if name not in free and (name == "sam.m" or not name.startswith("sam."))
  )
