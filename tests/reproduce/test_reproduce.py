"""The paper in miniature: its trainings, measures, rule and document."""

import dataclasses
import importlib.util

import jax
import numpy as np
import optax
import pytest
from absl import flags
from absl.testing import flagsaver
from jax.flatten_util import ravel_pytree

from sam_jax.analysis import sharpness
from sam_jax.analysis.result_cache import ResultCache
from sam_jax.config.cli import parse_flags
from scripts.reproduce import claims, measures, splits, studies, training
from scripts.reproduce.document import write_document
from scripts.reproduce.laboratory import Laboratory
from scripts.reproduce.studies import STUDIES
from tests.processes import REPOSITORY

SETTINGS = [
  training.Setting(rho=0.1, weight_decay=0.01),
  training.Setting(rho=0.5, learning_rate=0.05),
]


@pytest.fixture(scope="module")
def data():
  return splits.draw_splits(2, noise_rate=0.5)


def test_splits_are_disjoint_and_differ_between_seeds(data):
  assert [x.labels.shape for x in data] == [(2, 512), (2, 285), (2, 1000)]
  images = np.concatenate([x.images for x in data], axis=1)
  for rows in images:
    assert len(np.unique(rows, axis=0)) == len(np.unique(images[0], axis=0))
  assert not np.array_equal(data.test.labels[0], data.test.labels[1])
  clean = splits.draw_splits(2)
  wrong = (clean.train.labels != data.train.labels).mean(axis=1)
  assert wrong == pytest.approx(0.45, abs=0.06)  # half, of ten classes
  assert np.array_equal(clean.test.labels, data.test.labels)


def test_networks_side_by_side_are_those_of_a_plain_loop(data):
  """Against `optax.contrib.sam`, one network and one step after the other."""
  method = training.Method(m=64, num_epochs=1, width=8)
  params = training.train(method, SETTINGS, data.train)
  losses = training.example_losses(8)

  def optimizer(rho, learning_rate, weight_decay):
    rate = optax.cosine_decay_schedule(learning_rate, 8)
    base = optax.chain(
      optax.add_decayed_weights(weight_decay),
      optax.sgd(rate, momentum=0.9, nesterov=True),
    )
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    return optax.contrib.sam(base, ascent, opaque_mode=True)

  @jax.jit
  def step(numbers, w, state, batch):
    gradient_fn = jax.grad(lambda w: losses(w, batch).mean())
    updates, state = optimizer(*numbers).update(
      gradient_fn(w), state, w, grad_fn=lambda w, _: gradient_fn(w)
    )
    return optax.apply_updates(w, updates), state

  for g, seed in ((0, 1), (1, 0)):
    numbers = dataclasses.astuple(SETTINGS[g])
    images, labels = (x[seed] for x in data.train)
    orders = np.random.default_rng((seed, 0x0DE5)).permutation(512)
    w = training.MLP(8).init(jax.random.key(seed), images[:1])["params"]
    state = optimizer(*numbers).init(w)
    for order in orders.reshape(8, 64):
      batch = {"image": images[order], "label": labels[order]}
      w, state = step(numbers, w, state, batch)
    found = jax.tree.map(lambda x, g=g, s=seed: x[g, s], params)
    flat, expected = ravel_pytree(found)[0], ravel_pytree(w)[0]
    np.testing.assert_allclose(flat, expected, rtol=1e-3, atol=1e-5)


def test_random_perturbations_change_less_than_those_along_the_gradient(data):
  settings = [training.Setting(rho=1e-6), training.Setting(rho=0.5)]

  def weights(is_random):
    method = training.Method(
      m=64, num_epochs=1, width=8, random_direction=is_random
    )
    params = training.train(method, settings, data.train)
    return [
      ravel_pytree(jax.tree.map(lambda x, g=g: x[g, 0], params))[0]
      for g in range(2)
    ]

  (sgd, sam), (same, noisy) = map(weights, (False, True))
  np.testing.assert_allclose(same, sgd, rtol=1e-3, atol=1e-4)
  norm = np.linalg.norm
  assert 0.01 * norm(sam - sgd) < norm(noisy - sgd) < 0.5 * norm(sam - sgd)


def test_measures_are_those_of_the_analyses(data):
  random = np.random.default_rng(0)
  shapes = training.MLP(3).init(jax.random.key(0), data.train.images[0, :1])
  params = jax.tree.map(
    lambda x: 0.3 * random.standard_normal((2, 2, *x.shape), np.float32),
    shapes["params"],
  )
  one = jax.tree.map(lambda x: x[1, 0], params)
  losses = training.example_losses(3)
  batch = {"image": data.train.images[0], "label": data.train.labels[0]}
  found = measures.m_sharpness(3, params, data.train, 128, rho=0.1)
  expected = sharpness.m_sharpness(
    losses, one, batch, 128, 0.1, devices=jax.devices()[:1]
  )
  assert found[1, 0] == pytest.approx(expected.value, rel=1e-3)

  flat, unravel = ravel_pytree(one)
  dense = jax.jit(jax.hessian(lambda w: losses(unravel(w), batch).mean()))(flat)
  top = measures._top_eigenvalues(3, one, batch, seed=0)
  assert top == pytest.approx(np.linalg.eigvalsh(dense)[::-1][:5], rel=1e-2)


@pytest.mark.parametrize(
  ("differences", "verdict"),
  [
    ([-1.0, -1.2, -0.8], "reproduced"),
    ([1.0, 1.2, 0.8], "contradicted"),
    ([-1.0, 1.2, -0.8], "not reproduced"),
  ],
)
def test_rule_of_a_difference(differences, verdict):
  claim = claims.is_lower("a < b", "", differences, [0.0] * 3)
  assert claim.verdict == verdict
  assert claim.difference[0] == pytest.approx(np.mean(differences))


@pytest.mark.parametrize(
  ("differences", "verdict"),
  [
    ([0.1, -0.1, 0.0], "reproduced"),
    ([5.0, 5.1, 4.9], "contradicted"),
    ([-3.0, 3.0, 0.0], "not reproduced"),
  ],
)
def test_rule_of_no_difference(differences, verdict):
  claim = claims.is_equal("a = b", "", differences, [0.0] * 3, margin=0.5)
  assert claim.verdict == verdict


class MadeUpLaboratory(Laboratory):
  """Errors that favour SAM; nothing is trained."""

  def get(self, name, key, compute):
    del compute
    return super().get(name, key, lambda: self._make_up(name, key))

  def _make_up(self, name, key):
    wiggle = np.random.default_rng(0).random(self.num_seeds)
    if name == "grid":
      count = key["settings"].count("Setting(")
      base = 0.1 if "uses_sam=False" in key["method"] else 0.05
      rows = (base + 0.01 * wiggle) * np.ones((count, 1))
      return dict.fromkeys(("train", "validation", "test"), rows.tolist())
    if name == "curvature":
      return dict.fromkeys(("lambda_1", "lambda_5"), (1 + wiggle).tolist())
    ms = [str(m) for m in studies.SCORED_MS]
    taus = dict.fromkeys(("all", *measures.HYPERPARAMETERS), -0.5)
    return {
      "scores": {m: (wiggle + i).tolist() for i, m in enumerate(ms)},
      "random": wiggle.tolist(),
      "correlations": dict.fromkeys(ms, taus),
    }


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
  """All studies, and where their results are."""
  path = tmp_path_factory.mktemp("results") / "results.json"
  lab = MadeUpLaboratory(ResultCache(path), 4, 1)
  return path, lab, {name: study(lab) for name, study in STUDIES.items()}


def test_resumed_studies_compare_what_fresh_ones_do(made_up):
  """Saved results are sorted by name: "512" comes before "64"."""
  path, _, fresh = made_up
  lab = MadeUpLaboratory(ResultCache(path), 4, 1)
  for name in STUDIES:
    resumed = STUDIES[name](lab)
    assert resumed.rows == fresh[name].rows
    assert resumed.claims == fresh[name].claims
  claims = fresh["prediction"].claims
  whole = "Sharpness of the whole training set (m = 512) scores lower than"
  assert [c.statement.startswith(whole) for c in claims] == [0, 1, 1, 1, 1, 0]
  differences = [c.difference[0] for c in claims[1:]]
  assert differences == pytest.approx([4, 3, 2, 1, differences[-1]])
  assert differences[-1] > 0  # the slope over log2 m
  assert all(c.verdict == "contradicted" for c in claims[1:])


def test_every_study_is_written_down(made_up, tmp_path):
  _, lab, found = made_up
  path, pictures = tmp_path / "out/DOCUMENT.md", tmp_path / "out/pictures"
  pictures.mkdir(parents=True)
  write_document(path, pictures, found, lab)
  text = path.read_text()
  assert "| SAM's test error is lower than SGD's | Tables 1 to 3 |" in text
  assert "-5.00 ± 0.00 points | **reproduced** |" in text
  for letter, study in zip("abcdefghi", found.values(), strict=True):
    assert f"## {letter}. {study.title}" in text
    assert study.claims
  links = [line for line in text.splitlines() if line.startswith("![")]
  assert len(links) == len(list(pictures.glob("*.png"))) == 5
  assert all("](pictures/" in link for link in links)
  count = sum(len(study.claims) for study in found.values())
  assert f"These are {count} verdicts" in text
  # Of lambda, the mean and the interval of the logarithm.
  values = np.log(1 + np.random.default_rng(0).random(4))
  assert f"| SGD | {np.exp(values.mean()):.2g} (" in text
  assert "| m = 64 | 3." in text
  assert "| -0.50 | -0.50 | -0.50 | -0.50 |" in text


@pytest.fixture
def reproduce():
  """The script as a function of its arguments."""
  others = set(flags.FLAGS)
  path = REPOSITORY / "scripts/reproduce/__main__.py"
  spec = importlib.util.spec_from_file_location("reproduce", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)

  def run(*arguments):
    with flagsaver.flagsaver():
      module.main(parse_flags(["reproduce", *arguments]))

  yield run
  for name in set(flags.FLAGS) - others:
    delattr(flags.FLAGS, name)  # other scripts have some of the same name


def test_script_trains_writes_and_goes_on(reproduce, tmp_path):
  command = [
    *("--study=equal_cost", "--seeds=2", "--epochs=1"),
    *(f"--output={tmp_path}/R.md", f"--results={tmp_path}/results.json"),
  ]
  reproduce(*command)
  text = (tmp_path / "R.md").read_text()
  assert "| SGD, 2 epochs |" in text
  assert (tmp_path / "assets/reproduction").exists()
  # Nothing is trained again: a removed result would be.
  results = (tmp_path / "results.json").stat().st_mtime_ns
  reproduce(*command)
  assert (tmp_path / "R.md").read_text() == text
  assert (tmp_path / "results.json").stat().st_mtime_ns == results


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--study=equal_cots"], "Did you mean 'equal_cost'"),
    (["--study=norms"], "with --study it isn't the whole"),
    (["--seeds=2"], "with --seeds it isn't the whole"),
    (["--epochs=5"], "with --epochs it isn't the whole"),
    (["again"], "Unexpected arguments: again"),
  ],
)
def test_mistakes_give_one_line(reproduce, capsys, arguments, message):
  with pytest.raises(SystemExit) as error:
    reproduce(*arguments)
  assert error.value.code == 2
  assert message in capsys.readouterr().err
