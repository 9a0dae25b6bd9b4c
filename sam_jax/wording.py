"""Numbers of things in messages: "1 epoch", "2 epochs"."""


def count(number: int | str, noun: str, plural: str = "") -> str:
  """Return a number with its noun.

  >>> count(1, "epoch"), count(2000, "epoch"), count(0, "class", "classes")
  ('1 epoch', '2,000 epochs', '0 classes')

  Args:
    number: The number, or its text.
    noun: The noun for one.
    plural: The noun for several; "" if it ends with s.
  """
  text = number if isinstance(number, str) else f"{number:,}"
  return f"{text} {noun if text == '1' else plural or noun + 's'}"


def part(number: int, total: int, noun: str) -> str:
  """Return a part of several things, with the verb.

  >>> part(1, 4, "run"), part(0, 1, "run"), part(2, 3, "line")
  ('1 of 4 runs is', '0 of 1 run is', '2 of 3 lines are')
  """
  verb = "is" if 1 in (number, total) else "are"
  return f"{number:,} of {count(total, noun)} {verb}"
