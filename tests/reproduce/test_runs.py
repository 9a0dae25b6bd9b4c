"""Runs of studies: choices on held-out examples, and no order."""

import numpy as np
import pytest

from scripts.reproduce import results
from scripts.reproduce.levels import LEVELS
from scripts.reproduce.runs import NotTrainedError, Run, Runs
from scripts.reproduce.studies import STUDIES
from tests.reproduce.small_level import make_up

LEVEL = LEVELS["hour"]
RATE = "optimizer.learning_rate"


def is_tuning(run):
  return "dataset.validation_size" in dict(run.fields)


def test_results_are_asked_for_after_the_choice():
  runs = Runs(LEVEL, lambda job: None)
  with pytest.raises(NotTrainedError):
    runs.sgd()
  asked = list(runs.wanted.values())
  assert all(is_tuning(run) for run in asked)
  assert len(asked) == len(LEVEL.learning_rates) * len(LEVEL.tuning_seeds)

  def find(run):  # 0.03 is the best on validation examples, 0.3 on the test set
    rate = dict(run.fields)[RATE]
    return {"error_rate": rate if is_tuning(run) else 1 - rate}

  runs = Runs(LEVEL, find)
  arm = runs.sgd()
  assert arm.chosen == 0.03
  assert arm.tried == pytest.approx({0.03: 3, 0.1: 10, 0.3: 30})
  np.testing.assert_allclose(arm.errors, 97)
  assert not runs.wanted


def test_seeds_share_no_training_image_and_choices_have_their_own_seeds():
  runs = Runs(LEVEL, make_up)
  fields = [dict(run.fields) for run in runs.sam().runs]
  assert [each["seed"] for each in fields] == list(range(LEVEL.seeds))
  assert len({each["dataset.part"] for each in fields}) == LEVEL.seeds
  assert not any("dataset.validation_size" in each for each in fields)
  tuning = [dict(r.fields) for r in runs.asked.values() if is_tuning(r)]
  assert {each["seed"] for each in tuning} == set(LEVEL.tuning_seeds)
  assert not {each["seed"] for each in tuning} & set(range(LEVEL.seeds))


def test_a_run_that_diverged_has_the_error_of_chance():
  runs = Runs(LEVEL, lambda run: {"failed": "not finite"})
  found = runs.errors([runs.make({}, seed) for seed in range(3)])
  np.testing.assert_allclose(found, 90)


@pytest.mark.parametrize("name", LEVELS)
def test_studies_do_not_depend_on_their_order(name):
  level = LEVELS[name]
  rounds = []
  for order in (level.studies, level.studies[::-1]):
    known, asked = set(), []
    while True:
      runs = Runs(level, lambda j, k=known: make_up(j) if j.key in k else None)
      sections = results.ask_all(runs, {s: STUDIES[s] for s in order})
      if not runs.wanted:
        break
      asked.append(sorted(runs.wanted))
      known |= runs.wanted.keys()
    tables = {s: (x.rows, x.claims) for s, x in sections.items()}
    rounds.append((asked, tables))
  assert rounds[0] == rounds[1]
  assert sections.keys() == set(level.studies)


@pytest.mark.parametrize("name", LEVELS)
def test_a_plan_asks_for_as_many_runs_as_a_level_trains(name):
  level = LEVELS[name]
  plan = Runs(level, lambda job: None, planning=True)
  results.ask_all(plan, {s: STUDIES[s] for s in level.studies})
  trained = Runs(level, make_up)
  results.ask_all(trained, {s: STUDIES[s] for s in level.studies})
  # Arms may share runs by chance, when they choose the same value.
  assert len(trained.asked) <= len(plan.wanted) * 1.1
  assert len(trained.asked) >= len(plan.wanted) * 0.9


def test_runs_have_directories_of_their_own():
  source = Run((("seed", 1),))
  runs = [source, Run((("seed", 2),)), Run((("seed", 1),), source)]
  assert len({run.name for run in runs}) == len({run.key for run in runs}) == 3
