"""Names of runs and of their checkpoints."""

import pytest

from sam_jax.analysis.run_names import RunName, labels, parse_names


def test_step_follows_the_last_at_sign(tmp_path):
  (tmp_path / "odd@7").mkdir()
  texts = ["runs/a", "runs/a@100", "gs://b@c/run@5", f"{tmp_path}/odd@7"]
  assert parse_names(texts) == [
    RunName("runs/a", None),
    RunName("runs/a", 100),
    RunName("gs://b@c/run", 5),
    RunName(f"{tmp_path}/odd@7", None),  # this is a directory
  ]


def test_labels_are_as_short_as_they_are_unique():
  names = parse_names(["x/sgd", "y/sgd", "y/sam", "y/sam@10"])
  assert labels(names) == ["x/sgd", "y/sgd", "sam", "sam@10"]


@pytest.mark.parametrize(
  ("texts", "message"),
  [
    (["runs/a@last"], "--workdir=runs/a@last must be RUN@STEP with a number"),
    (["runs/a", "runs/../runs/a/"], "--workdir=runs/a is given twice"),
    (["gs://b/a/", "gs://b/a"], "--workdir=gs://b/a/ is given twice"),
    (["runs/a@1", "runs/a@01"], "--workdir=runs/a@1 is given twice"),
  ],
)
def test_names_that_are_refused(texts, message):
  with pytest.raises(ValueError, match=message):
    parse_names(texts)
