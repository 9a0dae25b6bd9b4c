"""The rows of a number that follows a schedule: the same for each of them."""

from sam_jax.config.field_type import Field

_KINDS = ("cosine", "exponential", "linear", "step", "constant")

# Group -> default schedule, schedules of its own, the value outside, and the
# first step of a warm-up.
_GROUPS: dict[str, tuple[str, tuple[str, ...], str, str]] = {
  "sam": (
    "constant",
    ("learning_rate",),
    "Before it and after schedule_end rho is 0: plain descent.",
    "from schedule_start on",
  ),
  "optimizer": (
    "cosine",
    (),
    "Before it the learning rate is at its peak.",
    "from the first step on",
  ),
}


def schedule_fields(group: str, number: str) -> dict[str, Field]:
  """Return the rows that describe the schedule of a number.

  Args:
    group: Group of the rows, "sam" or "optimizer".
    number: Name of the number in it, such as "rho": its value at the peak.
  """
  default, further_kinds, outside, first = _GROUPS[group]
  return {
    f"{group}.schedule": Field(
      default,
      choices=(*_KINDS, *further_kinds),
      help=f"Path of {number} from its peak to {number}_min.",
    ),
    f"{group}.{number}_min": Field(
      None,
      float,
      ge=0,
      is_argument=True,
      help=f"Value of {number} at the end of a schedule that falls smoothly;"
      " None: 0 or, of exponential, 1.2% of the peak.",
    ),
    f"{group}.warmup_epochs": Field(
      0.0,
      ge=0,
      is_argument=True,
      help=f"Epochs in which {number} rises from 0, {first}.",
    ),
    f"{group}.schedule_start": Field(
      None,
      float,
      ge=0,
      lt=1,
      is_argument=True,
      help="Fraction of the run at which the schedule starts; None: 0."
      f" {outside}",
    ),
    f"{group}.schedule_end": Field(
      None,
      float,
      gt=0,
      le=1,
      is_argument=True,
      help="Fraction of the run at which the schedule ends; None: 1.",
    ),
    f"{group}.step_at": Field(
      (),
      is_argument=True,
      help=f"Fractions of the schedule at which a step multiplies {number}.",
    ),
    f"{group}.step_factor": Field(
      0.1, ge=0, is_argument=True, help="Factor of such a step."
    ),
  }
