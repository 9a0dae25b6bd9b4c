"""The Hessian's spectrum and trace, from its products with vectors only.

Stochastic Lanczos quadrature, which Ghorbani, Krishnan and Xiao (2019,
arXiv:1901.10159) apply to networks: each probe is a Lanczos run from a random
vector. It finds the outermost eigenvalues and samples the density of all
eigenvalues.

A device holds four copies of the parameters in addition to the activations of
a batch: the parameters, a vector, the sum of the products, and the kernels that
XLA keeps between the passes. For WRN-28-10 (36.2 million parameters, 138 MiB a
copy) this is 4.33 copies with one 32x32 image at a time and 4.66 with two; a
gradient takes 2.27 and 2.35. These are arguments and temporary buffers of the
program that jax 0.10.2 compiles for a CPU (`Objective.program`); the resident
memory of the process agreed. The Lanczos basis, one more copy for each step, is
in the memory of the host.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from sam_jax.analysis import monte_carlo
from sam_jax.analysis.objective import Objective, Params

# float32 [n] -> float32 [n], linear and symmetric
Product = Callable[[np.ndarray], np.ndarray]

# Length of a vector that is zero but for float32 rounding, relative to the
# largest eigenvalue.
_ROUNDING = 1e-5


class Probe(NamedTuple):
  """The result of a Lanczos run of m steps, and its cost.

  Arrays are float64 [m], in the order of descending Ritz values.

  Attributes:
    ritz_values: Approximate eigenvalues.
    weights: Weights of the quadrature; their sum is 1.
    residuals: Bounds: an eigenvalue is at most this far from each Ritz value,
      rounding included.
    seconds: Time, including compilation in the first run.
    host_bytes: Memory of the Lanczos basis.
    device_bytes: Memory of each device; None if unknown.
  """

  ritz_values: np.ndarray
  weights: np.ndarray
  residuals: np.ndarray
  seconds: float
  host_bytes: int
  device_bytes: int | None = None

  @property
  def size(self) -> int:
    """The number of rows of the matrix, and so of all eigenvalues."""
    return self.host_bytes // (4 * len(self.weights))


class Eigenvalue(NamedTuple):
  """An approximate eigenvalue, and a bound of the distance to a true one."""

  value: float
  residual: float


class Density(NamedTuple):
  """A density of eigenvalues on a grid; both float64 [points]."""

  eigenvalues: np.ndarray
  density: np.ndarray


def probe_hessian(
  objective: Objective,
  params: Params,
  steps: int,
  seed: int | Sequence[int],
  on_step: Callable[[int], None] = lambda done: None,
) -> Probe:
  """Run Lanczos on the Hessian of an objective.

  Args:
    objective: Mean loss over a fixed set of examples.
    params: Point of the Hessian, a tree of n float32 parameters.
    steps: Number of Hessian-vector products, at most n.
    seed: Seed of the random vector to start from.
    on_step: Called after each step, with the number of steps done.

  Returns:
    The probe. Its `device_bytes` are the arguments and the temporary buffers of
    the compiled product.

  Raises:
    ValueError: `steps` < 1, or the Hessian is not finite.
  """
  params = objective.put(params)
  leaves = jax.tree.leaves(params)
  ends = np.cumsum([leaf.size for leaf in leaves])

  def product(vector):
    parts = np.split(vector, ends[:-1])
    shaped = [w.reshape(x.shape) for w, x in zip(parts, leaves, strict=True)]
    tree = jax.tree.unflatten(jax.tree.structure(params), shaped)
    result = jax.device_get(objective.hessian_product(params, tree))
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(result)])

  found = probe(product, int(ends[-1]), steps, seed, on_step)
  memory = objective.program("hessian_product", params).memory_analysis()
  if memory is None:  # some backends do not tell
    return found
  held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  return found._replace(device_bytes=held)


def probe(
  product: Product,
  size: int,
  steps: int,
  seed: int | Sequence[int],
  on_step: Callable[[int], None] = lambda done: None,
) -> Probe:
  """Run Lanczos on a symmetric matrix that is known only by its products.

  Full reorthogonalization prevents copies of a single eigenvalue. One run sees
  eigenvalues of higher multiplicity only once, unless its Krylov space is
  exhausted; it then continues in the complement.

  Args:
    product: Multiplies the matrix by float32 [size].
    size: Number of rows of the matrix.
    steps: Number of products, at most `size`.
    seed: Seed of the normal vector to start from.
    on_step: Called after each step, with the number of steps done.

  Raises:
    ValueError: `steps` < 1, or a product is not finite.
  """
  if steps < 1:
    raise ValueError(f"Lanczos takes at least one step, not {steps}.")
  start = time.monotonic()
  random = np.random.default_rng(seed)
  basis = np.empty((min(steps, size), size), np.float32)
  diagonal, off_diagonal = np.zeros((2, len(basis)))
  rest = random.standard_normal(size, np.float32)
  for i in range(len(basis)):
    basis[i] = rest / _norm(rest)
    image = product(basis[i])
    diagonal[i] = np.sum(basis[i] * image, dtype=np.float64)
    rest = _orthogonalize(image, basis[: i + 1])
    off_diagonal[i] = _norm(rest)
    scale = np.max(np.abs(diagonal) + off_diagonal)
    if not np.isfinite(scale):
      raise ValueError("A product with the Hessian is not finite.")
    if off_diagonal[i] <= _ROUNDING * scale:
      off_diagonal[i] = 0.0
      fresh = random.standard_normal(size, np.float32)
      rest = _orthogonalize(fresh, basis[: i + 1])
    on_step(i + 1)
  values, vectors = _eigenpairs(diagonal, off_diagonal)
  rounding = _ROUNDING * np.max(np.abs(values))
  return Probe(
    ritz_values=values,
    weights=vectors[0] ** 2,
    residuals=np.abs(off_diagonal[-1] * vectors[-1]) + rounding,
    seconds=time.monotonic() - start,
    host_bytes=basis.nbytes,
  )


def trace(
  product: Callable[[Params], Params],
  params: Params,
  *,
  draws: int,
  seed: int = 0,
  on_draw: Callable[[int], Any] = lambda done: None,
) -> monte_carlo.Estimate:
  """Estimate the trace of a symmetric matrix from its products.

  The mean of v^T H v over vectors v of random signs. Its variance is twice the
  sum of the squares off the diagonal: a diagonal matrix takes one draw.

  Args:
    product: Multiplies the matrix by a tree like `params`.
    params: A tree of arrays.
    draws: Number of vectors.
    seed: Seed of the vectors.
    on_draw: Called with 1 after each draw.

  Raises:
    ValueError: `draws` < 1.

  Reference: Hutchinson (1990), Communications in Statistics 19 (2).
  """

  def draw(number: int) -> float:
    vector = monte_carlo.signs_like(params, [seed, number])
    return float(optax.tree.vdot(vector, product(vector)))

  return monte_carlo.mean_of_draws(draw, draws, on_draw)


def top_eigenvalues(probes: Sequence[Probe], count: int) -> list[Eigenvalue]:
  """Return the largest eigenvalues that probes of one matrix have found.

  The i-th Ritz value is never above the i-th eigenvalue (Cauchy's interlacing
  theorem), so the largest one of all probes is the nearest.

  Args:
    probes: At least one.
    count: Number of eigenvalues; fewer if the probes had fewer steps.

  Returns:
    Eigenvalues in descending order, with their residual bounds
    |beta_m * last component of the Ritz vector|, plus the rounding of float32.
  """
  best = []
  for i in range(min(count, *(len(p.ritz_values) for p in probes))):
    winner = max(probes, key=lambda p: p.ritz_values[i])
    best.append(
      Eigenvalue(float(winner.ritz_values[i]), float(winner.residuals[i]))
    )
  return best


def spectral_density(
  probes: Sequence[Probe], width: float | None = None, points: int = 1024
) -> Density:
  """Return the density of all eigenvalues, the mean over probes.

  Args:
    probes: At least one.
    width: Standard deviation of the Gaussian that replaces an eigenvalue; None
      for `default_width`.
    points: Size of the grid, at least.

  Returns:
    The density; its integral over the grid is 1.
  """
  width = width or default_width(probes)
  low = min(p.ritz_values[-1] for p in probes) - 5 * width
  high = max(p.ritz_values[0] for p in probes) + 5 * width
  # Two points a width: a coarser grid would miss peaks.
  points = max(points, int(2 * (high - low) / width))
  grid = np.linspace(low, high, points)
  density = np.zeros(points)
  for each in probes:
    distance = (grid[:, None] - each.ritz_values) / width
    density += np.exp(-0.5 * distance**2) @ each.weights
  density /= len(probes) * width * np.sqrt(2 * np.pi)
  return Density(grid, density)


def default_width(probes: Sequence[Probe]) -> float:
  """Return a hundredth of the range of the spectrum, or of its only value."""
  values = np.concatenate([p.ritz_values for p in probes])
  return float(np.ptp(values) or np.abs(values[0]) or 1.0) / 100


def _eigenpairs(
  diagonal: np.ndarray, off_diagonal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Return the eigenvalues and eigenvectors of a tridiagonal matrix.

  Args:
    diagonal: float64 [m].
    off_diagonal: float64 [m]; the last entry is not used.

  Returns:
    Values [m], descending, and vectors [m, m] in columns.
  """
  matrix = np.diag(diagonal)
  matrix += np.diag(off_diagonal[:-1], 1) + np.diag(off_diagonal[:-1], -1)
  values, vectors = np.linalg.eigh(matrix)
  return values[::-1], vectors[:, ::-1]


def _orthogonalize(vector: np.ndarray, basis: np.ndarray) -> np.ndarray:
  """Subtract the part of a vector [n] in the span of orthonormal rows [m, n].

  The second pass subtracts what rounding has left.
  """
  for _ in range(2):
    vector = vector - (basis @ vector) @ basis
  return vector


def _norm(vector: np.ndarray) -> float:
  return float(np.sqrt(np.sum(np.square(vector), dtype=np.float64)))
