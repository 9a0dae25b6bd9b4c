"""The Hessian's spectrum, from products with vectors alone.

Stochastic Lanczos quadrature, as Ghorbani, Krishnan and Xiao (2019,
arXiv:1901.10159) apply it to networks: each probe is a Lanczos run from a
random vector. It finds the outermost eigenvalues, and a sample of the density
of all of them.

A device holds four copies of the parameters beside the activations of a batch:
the parameters, a vector, the sum of its products, and what XLA keeps of kernels
between the passes. For WRN-28-10 (36.2 million parameters, 138 MiB a copy) that
is 4.33 copies with one 32x32 image at a time and 4.66 with two, where a
gradient takes 2.27 and 2.35: arguments and temporary buffers as the compiled
program (`Objective.hessian_program`) states them on a CPU with jax 0.10.2; the
resident memory of that process agreed. The Lanczos basis, one more copy for
each step, is kept in the memory of the host.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from sam_jax.analysis.objective import Objective, Params

# float32 [n] -> float32 [n], linear and symmetric
Product = Callable[[np.ndarray], np.ndarray]

# What float32 leaves of a vector that should be zero, relative to the largest
# eigenvalue.
_ROUNDING = 1e-5


class Probe(NamedTuple):
  """What a Lanczos run of m steps says about a spectrum, and what it took.

  Every array is float64 [m], in the order of descending Ritz values.
  """

  ritz_values: np.ndarray  # approximate eigenvalues
  weights: np.ndarray  # of the quadrature; they sum to 1
  residuals: np.ndarray  # an eigenvalue lies this near to each, with rounding
  seconds: float  # with compilation, if it was the first
  host_bytes: int  # of the basis
  device_bytes: int | None = None  # of each device; None: not known

  @property
  def size(self) -> int:
    """Rows of the matrix, which is the number of all eigenvalues."""
    return self.host_bytes // (4 * len(self.weights))


class Eigenvalue(NamedTuple):
  """An approximate eigenvalue, and how far off the nearest one can be."""

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
  """Runs Lanczos on the Hessian of an objective.

  Args:
    objective: Mean loss over a fixed set of examples.
    params: Where to look; a tree of n float32 parameters.
    steps: Hessian-vector products; min(steps, n) are made.
    seed: Decides the random vector to start from.
    on_step: Called with the number of steps done, after each.

  Returns:
    The probe; its `device_bytes` are arguments and temporary buffers of the
    compiled product.

  Raises:
    ValueError: `steps` < 1, or the Hessian is not finite.
  """
  params = objective.put(params)
  leaves, structure = jax.tree.flatten(params)
  ends = np.cumsum([leaf.size for leaf in leaves])

  def product(vector):
    parts = np.split(vector, ends[:-1])
    tree = structure.unflatten(
      part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)
    )
    result = jax.device_get(objective.hessian_product(params, tree))
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(result)])

  found = probe(product, int(ends[-1]), steps, seed, on_step)
  memory = objective.hessian_program(params).memory_analysis()
  held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  return found._replace(device_bytes=held)


def probe(
  product: Product,
  size: int,
  steps: int,
  seed: int | Sequence[int],
  on_step: Callable[[int], None] = lambda done: None,
) -> Probe:
  """Runs Lanczos on a symmetric matrix of which only products are known.

  With full reorthogonalisation, so that no eigenvalue is found twice that is
  there only once. One run sees eigenvalues of higher multiplicity only once,
  unless its Krylov space is exhausted; it then goes on in the complement.

  Args:
    product: Multiplies the matrix with float32 [size].
    size: Rows of the matrix.
    steps: Products; min(steps, size) are made.
    seed: Decides the normal vector to start from.
    on_step: Called with the number of steps done, after each.

  Returns:
    The probe.

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
    rest = _orthogonalise(image, basis[: i + 1])
    off_diagonal[i] = _norm(rest)
    scale = np.max(np.abs(diagonal) + off_diagonal)
    if not np.isfinite(scale):
      raise ValueError("A product with the Hessian is not finite.")
    if off_diagonal[i] <= _ROUNDING * scale:
      off_diagonal[i] = 0.0
      fresh = random.standard_normal(size, np.float32)
      rest = _orthogonalise(fresh, basis[: i + 1])
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


def top_eigenvalues(probes: Sequence[Probe], count: int) -> list[Eigenvalue]:
  """The largest eigenvalues that probes of one matrix have found.

  The i-th Ritz value is never above the i-th eigenvalue (Cauchy's interlacing
  theorem), so the largest one of all probes is the nearest.

  Args:
    probes: At least one.
    count: How many; fewer are returned where the probes had fewer steps.

  Returns:
    Eigenvalues in descending order, with their residual bounds
    |beta_m * last component of the Ritz vector|, plus float32's rounding.
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
  """Density of all eigenvalues, the mean over probes.

  Args:
    probes: At least one.
    width: Standard deviation of the Gaussian that stands for an eigenvalue;
      None: `default_width`.
    points: Size of the grid.

  Returns:
    The density, which integrates to 1 over its grid.
  """
  width = width or default_width(probes)
  low = min(p.ritz_values[-1] for p in probes) - 5 * width
  high = max(p.ritz_values[0] for p in probes) + 5 * width
  # A coarser grid would miss peaks.
  points = max(points, int(2 * (high - low) / width))
  grid = np.linspace(low, high, points)
  density = np.zeros(points)
  for each in probes:
    distance = (grid[:, None] - each.ritz_values) / width
    density += np.exp(-0.5 * distance**2) @ each.weights
  density /= len(probes) * width * np.sqrt(2 * np.pi)
  return Density(grid, density)


def default_width(probes: Sequence[Probe]) -> float:
  """A hundredth of the range of the spectrum, or of its only value."""
  values = np.concatenate([p.ritz_values for p in probes])
  return float(np.ptp(values) or np.abs(values[0]) or 1.0) / 100


def _eigenpairs(diagonal, off_diagonal):
  """Of the tridiagonal matrix: values descending, vectors in columns."""
  matrix = np.diag(diagonal)
  matrix += np.diag(off_diagonal[:-1], 1) + np.diag(off_diagonal[:-1], -1)
  values, vectors = np.linalg.eigh(matrix)
  return values[::-1], vectors[:, ::-1]


def _orthogonalise(vector, basis):
  """Subtracts the part within the span of orthonormal rows."""
  for _ in range(2):  # the second time, what rounding left
    vector = vector - (basis @ vector) @ basis
  return vector


def _norm(vector) -> float:
  return float(np.sqrt(np.sum(np.square(vector), dtype=np.float64)))
