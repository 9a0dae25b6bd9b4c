"""Spectra against known ones, dense Hessians, and the number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sam_jax.analysis import hessian
from sam_jax.analysis.objective import Objective

SPECTRA = {
  "separate": np.linspace(-1, 2, 12) ** 3,
  "degenerate": np.array([5.0, 5, 5, 2, 2, 0.5, 0, 0, 0, 0, -1, -1]),
  "zero": np.zeros(12),
}


def matrix_of(spectrum):
  random = np.random.default_rng(0)
  basis, _ = np.linalg.qr(random.normal(size=(len(spectrum),) * 2))
  return ((basis * spectrum) @ basis.T).astype(np.float32)


def probe_of(spectrum, steps, seed=0):
  matrix = matrix_of(spectrum)
  return hessian.probe(lambda v: matrix @ v, len(spectrum), steps, seed)


def network_losses(params, batch):
  hidden = jnp.tanh(batch["x"] @ params["w"])
  return jnp.sum((hidden @ params["v"] - batch["y"]) ** 2, axis=-1)


def network():
  random = np.random.default_rng(0)
  draw = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
  params = {"w": draw(4, 5), "v": draw(5, 2)}
  return params, {"x": draw(21, 4), "y": draw(21, 2)}


@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra_are_found(name):
  """There are fewer dimensions than steps."""
  spectrum = np.sort(SPECTRA[name])[::-1]
  probe = probe_of(spectrum, steps=100)
  np.testing.assert_allclose(probe.ritz_values, spectrum, atol=1e-5)
  np.testing.assert_allclose(probe.residuals, 0, atol=1e-4)
  assert probe.weights.sum() == pytest.approx(1)
  top = hessian.top_eigenvalues([probe], 5)
  np.testing.assert_allclose([t.value for t in top], spectrum[:5], atol=1e-5)


def test_residuals_bound_the_error():
  spectrum = np.append(np.linspace(0, 1, 198), [1.05, 4.0])
  probe = probe_of(spectrum, steps=16)
  distances = np.abs(probe.ritz_values[:, None] - spectrum).min(axis=1)
  assert np.all(distances <= probe.residuals)
  assert probe.ritz_values[0] == pytest.approx(4, rel=1e-5)
  assert probe.residuals[0] < 1e-3 < probe.residuals[1]


def test_several_probes_never_overshoot():
  spectrum = np.linspace(0, 1, 200) ** 4
  probes = [probe_of(spectrum, steps=10, seed=seed) for seed in range(4)]
  top = [t.value for t in hessian.top_eigenvalues(probes, 5)]
  exact = np.sort(spectrum)[::-1][:5]
  assert np.all(top <= exact + 1e-6)
  alone = [t.value for t in hessian.top_eigenvalues(probes[:1], 5)]
  assert np.all(np.array(top) >= alone)
  assert top[0] == pytest.approx(1, rel=1e-2)


def test_density_integrates_to_one_and_has_the_moments_of_the_spectrum():
  spectrum = np.append(np.zeros(150), np.linspace(1, 3, 50))
  probes = [probe_of(spectrum, steps=20, seed=seed) for seed in range(8)]
  grid, density = hessian.spectral_density(probes)
  assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-5)
  mean = np.trapezoid(density * grid, grid)
  assert mean == pytest.approx(spectrum.mean(), rel=0.1)
  bulk = np.abs(grid) < 0.3
  zeros = np.trapezoid(density[bulk], grid[bulk])
  assert zeros == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("spectrum", [np.zeros(5), np.full(5, -2.0)])
def test_density_of_one_value(spectrum):
  grid, density = hessian.spectral_density([probe_of(spectrum, steps=5)])
  assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-5)
  assert grid[density.argmax()] == pytest.approx(spectrum[0], abs=0.02)


def test_network_equals_its_dense_hessian_on_any_number_of_devices():
  params, examples = network()
  flat, unravel = jax.flatten_util.ravel_pytree(params)
  dense = jax.hessian(lambda w: network_losses(unravel(w), examples).mean())
  exact = np.linalg.eigvalsh(np.asarray(dense(flat), np.float64))[::-1]
  probes = []
  for count in (1, 8):
    objective = Objective(
      network_losses, examples, batch_size=8, devices=jax.devices()[:count]
    )
    done = []
    probes.append(
      hessian.probe_hessian(objective, params, 100, [0, 1], done.append)
    )
    assert done == list(range(1, flat.size + 1))
  for probe in probes:
    np.testing.assert_allclose(probe.ritz_values, exact, atol=1e-4 * exact[0])
    assert probe.size == flat.size
    # The parameters, a vector and the sum of its products, at least.
    assert 3 * flat.nbytes < probe.device_bytes < 100 * flat.nbytes
  np.testing.assert_allclose(probes[0].weights, probes[1].weights, atol=1e-2)


def test_product_holds_four_copies_of_the_parameters():
  """A network of convolutions: XLA likes to transpose all kernels at once."""
  kernels = [np.zeros((3, 3, 32, 32), np.float32)] * 8
  examples = {"x": np.zeros((1, 4, 4, 32), np.float32)}

  def losses(kernels, batch):
    x = batch["x"]
    for kernel in kernels:
      x += jax.lax.conv_general_dilated(
        jnp.tanh(x),
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )
    return jnp.sum(x**2, axis=(1, 2, 3))

  objective = Objective(
    losses, examples, batch_size=1, devices=jax.devices()[:1]
  )
  product = objective.program("hessian_product", kernels).memory_analysis()
  gradient = objective.program("gradient", kernels).memory_analysis()
  copy = sum(kernel.nbytes for kernel in kernels)
  assert product.alias_size_in_bytes >= copy  # the sum is added to in place
  activations = gradient.temp_size_in_bytes
  assert activations < copy  # no copy of the gradient next to its sum
  held = product.argument_size_in_bytes + product.temp_size_in_bytes
  assert held <= 4 * copy + 2 * activations


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match="at least one step, not 0"):
    probe_of(np.ones(3), steps=0)
  with pytest.raises(ValueError, match="not finite"):
    hessian.probe(lambda v: v * np.nan, 3, 2, 0)
