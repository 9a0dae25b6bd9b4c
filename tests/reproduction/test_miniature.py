"""The paper in miniature: its trainings, measures, rule and document."""

import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from processes import REPOSITORY

from sam_jax.analysis import sharpness
from sam_jax.analysis.pieces import Pieces
from sam_jax.reproduction import claims, measures, splits, training
from sam_jax.reproduction.document import write_document
from sam_jax.reproduction.laboratory import Laboratory
from sam_jax.reproduction.studies import STUDIES

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
  for g, seed in ((0, 1), (1, 0)):
    setting = SETTINGS[g]
    images, labels = (x[seed] for x in data.train)
    orders = np.random.default_rng((seed, 0x0DE5)).permutation(512)
    rate = optax.cosine_decay_schedule(setting.learning_rate, 8)
    base = optax.chain(
      optax.add_decayed_weights(setting.weight_decay),
      optax.sgd(rate, momentum=0.9, nesterov=True),
    )
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(setting.rho))
    optimizer = optax.contrib.sam(base, ascent, opaque_mode=True)
    model = training.MLP(8)
    w = model.init(jax.random.key(seed), images[:1])["params"]
    state = optimizer.init(w)
    for order in orders.reshape(8, 64):
      batch = {"image": images[order], "label": labels[order]}
      gradient_fn = jax.grad(lambda w, b=batch: losses(w, b).mean())
      updates, state = optimizer.update(
        gradient_fn(w), state, w, grad_fn=lambda w, _, f=gradient_fn: f(w)
      )
      w = optax.apply_updates(w, updates)
    found = jax.tree.map(lambda x, g=g, s=seed: x[g, s], params)
    flat, expected = ravel_pytree(found)[0], ravel_pytree(w)[0]
    np.testing.assert_allclose(flat, expected, rtol=1e-3, atol=1e-5)


def test_measures_are_those_of_the_analyses(data):
  params = training.train(
    training.Method(uses_sam=False, m=64, num_epochs=1, width=3),
    SETTINGS,
    data.train,
  )
  one = jax.tree.map(lambda x: x[1, 0], params)
  losses = training.example_losses(3)
  batch = {"image": data.train.images[0], "label": data.train.labels[0]}
  found = measures.m_sharpness(3, params, data.train, 128, rho=0.1)
  expected = sharpness.m_sharpness(
    losses, one, batch, 128, 0.1, devices=jax.devices()[:1]
  )
  assert found[1, 0] == pytest.approx(expected.sharpness, rel=1e-3)

  flat, unravel = ravel_pytree(one)
  dense = jax.hessian(lambda w: losses(unravel(w), batch).mean())(flat)
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
    self.seconds[repr(key)] = 60.0
    wiggle = np.random.default_rng(0).random(self.num_seeds)
    if name == "grid":
      count = key["settings"].count("Setting(")
      base = 0.1 if "uses_sam=False" in key["method"] else 0.05
      rows = (base + 0.01 * wiggle) * np.ones((count, 1))
      return dict.fromkeys(("train", "validation", "test"), rows.tolist())
    names = {
      "curvature": ["lambda_1", "lambda_5"],
      "scores": ["m = 1", "m = 4", "m = 16", "m = 64", "m = 512", "random"],
    }
    return {each: (1 + wiggle).tolist() for each in names[name]}


def test_every_study_is_written_down(tmp_path):
  lab = MadeUpLaboratory(Pieces(tmp_path / "results.json"), 4, 1)
  found = {name: study(lab) for name, study in STUDIES.items()}
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


def test_script_trains_writes_and_goes_on(tmp_path):
  command = [
    *(sys.executable, "scripts/reproduce.py", "--study=equal_cost"),
    *("--seeds=2", "--epochs=1", f"--output={tmp_path}/R.md"),
    *(f"--pictures={tmp_path}/p", f"--results={tmp_path}/results.json"),
  ]
  run = {"cwd": REPOSITORY, "capture_output": True, "text": True}
  first = subprocess.run(command, **run)
  assert first.returncode == 0, first.stderr
  text = (tmp_path / "R.md").read_text()
  assert "| SGD, 2 epochs |" in text
  # Nothing is trained again: a removed result would be.
  results = (tmp_path / "results.json").stat().st_mtime_ns
  assert subprocess.run(command, **run).returncode == 0
  assert (tmp_path / "R.md").read_text() == text
  assert (tmp_path / "results.json").stat().st_mtime_ns == results

  wrong = subprocess.run([*command, "--study=equal_cots"], **run)
  assert wrong.returncode == 2
  assert "Did you mean 'equal_cost'" in wrong.stderr
