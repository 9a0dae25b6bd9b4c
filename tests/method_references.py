"""NumPy references of the methods in sam_jax/methods.py, and their problem.

A shard has the loss 1/2 (w - c)^T A (w - c) + sum(w^4) / 4, with another c in
every step. A reference returns the direction of one shard, and what the method
remembers.
"""

import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from sam_jax import methods

STEPS = 7
LEARNING_RATE = 0.03
RHO = 0.3

_random = np.random.default_rng(0)
PARAMS = {
  "conv": {
    "bias": np.array([0.1, -0.2], np.float32),
    "kernel": _random.normal(size=(3, 2)).astype(np.float32),
  },
  "norm": {
    "bias": np.array([-0.3, 0.2], np.float32),
    "scale": np.array([1.0, 0.5], np.float32),
  },
}
W, unravel = ravel_pytree(PARAMS)
IS_BIAS = np.array([1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0], bool)
IS_NORM = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1], bool)
A = np.diag(np.linspace(0.5, 5.0, W.size)) + 0.2
CENTERS = _random.normal(size=(STEPS, 4, W.size))


def loss(params, center):
  w, _ = ravel_pytree(params)
  d = w - center
  return 0.5 * d @ jnp.asarray(A, w.dtype) @ d + jnp.sum(w**4) / 4


def gradient_of_shard(center):
  return lambda w: A @ (w - center) + w**3


def norm(x):
  return np.sqrt(np.sum(x**2))


def sam_gradient(w, gradient, ascent, scale=1.0, rho=RHO):
  scaled = scale * ascent
  return gradient(w + rho * scale * scaled / norm(scaled))


def orthogonal(a, b):
  return a - a @ b / (b @ b) * b


def asam(w, gradient, memory, t):
  scale = np.where(IS_BIAS, 1.0, np.abs(w) + 0.01)
  return sam_gradient(w, gradient, gradient(w), scale), memory


def asam_of_all(w, gradient, memory, t):
  return sam_gradient(w, gradient, gradient(w), np.abs(w) + 0.2), memory


def sam_on(w, gradient, memory, t):
  return sam_gradient(w, gradient, gradient(w) * IS_NORM), memory


def gsam(w, gradient, memory, t):
  g = gradient(w)
  s = sam_gradient(w, gradient, g)
  return s - 0.4 * orthogonal(g, s), memory


def gsam_of_f(w, gradient, memory, t):
  g = gradient(w)
  s = sam_gradient(w, gradient, g)
  return g + 0.4 * orthogonal(s, g), memory


def weighted_sam(w, gradient, memory, t):
  g = gradient(w)
  return 0.2 * g + 0.8 * sam_gradient(w, gradient, g), memory


def every_third_with_rho(w, gradient, memory, t):
  g = gradient(w)
  is_sam = t in (0, 3, 6)
  return sam_gradient(w, gradient, g, rho=3 * RHO) if is_sam else g, memory


def every_third_with_sharpness(w, gradient, memory, t):
  g = gradient(w)
  is_sam = t in (0, 3, 6)
  s = sam_gradient(w, gradient, g) if is_sam else g
  return g + 3 * (s - g), memory


def friendly_sam(w, gradient, memory, t):
  g = gradient(w)
  if t == 0:
    return sam_gradient(w, gradient, g), g
  average = 0.8 * memory + 0.2 * g
  return sam_gradient(w, gradient, g - 0.7 * memory), average


def friendly_sam_of_the_paper(w, gradient, memory, t):
  """Subtract the average that has this step's gradient in it."""
  g = gradient(w)
  if t == 0:
    return sam_gradient(w, gradient, g), g
  average = 0.8 * memory + 0.2 * g
  return sam_gradient(w, gradient, g - average), average


def friendly_sam_every_second(w, gradient, memory, t):
  direction, memory = friendly_sam(w, gradient, memory, t)
  return direction if t % 2 == 0 else gradient(w), memory


def look_sam(w, gradient, memory, t):
  g = gradient(w)
  if t in (0, 3, 6):
    s = sam_gradient(w, gradient, g)
    return s, orthogonal(s, g)
  return g + 0.5 * norm(g) / norm(memory) * memory, memory


def ae_sam(w, gradient, memory, t):
  g = gradient(w)
  old = (0.0, 0.0) if memory is None else memory
  mean = 0.6 * old[0] + 0.4 * g @ g
  variance = 0.6 * old[1] + 0.4 * (g @ g - mean) ** 2
  threshold = 0.3 - 1.1 * t / STEPS
  is_sam = g @ g >= mean + threshold * np.sqrt(variance)
  direction = sam_gradient(w, gradient, g) if is_sam else g
  return direction, np.array([mean, variance])


def momentum_sam(w, gradient, memory, t):
  v = 0 * w if t == 0 else memory
  length = norm(v) if t else 1.0
  g = gradient(w - RHO * v / length)
  return g, 0.8 * v + g


def single_step_sam(w, gradient, memory, t):
  g = gradient(w if t == 0 else w + RHO * memory / norm(memory))
  return g, g


def adaptive_single_step_sam_every_second(w, gradient, memory, t):
  if t % 2 or t == 0:
    g = gradient(w)
  else:
    scale = np.where(IS_BIAS, 1.0, np.abs(w) + 0.2)
    eps = RHO * scale**2 * memory / norm(scale * memory)
    g = gradient(w + eps)
  return g, g


REFERENCES = [
  (asam, methods.asam, {}),
  (asam_of_all, methods.asam, {"scale_biases": True, "eta": 0.2}),
  (sam_on, methods.sam_on, {}),
  (gsam, methods.gsam, {"surrogate_gap": 0.4}),
  (gsam_of_f, methods.gsam, {"surrogate_gap": 0.4, "minimize_fp": False}),
  (weighted_sam, methods.weighted_sam, {"gamma": 4 / 9}),
  (every_third_with_rho, methods.every_k, {"every": 3}),
  (
    every_third_with_sharpness,
    methods.every_k,
    {"every": 3, "scale": "sharpness"},
  ),
  (friendly_sam, methods.friendly_sam, {"sigma": 0.7, "decay": 0.8}),
  (friendly_sam_of_the_paper, methods.friendly_sam, {"decay": 0.8}),
  (
    friendly_sam_every_second,
    methods.friendly_sam,
    {"sigma": 0.7, "decay": 0.8, "every": 2},
  ),
  (look_sam, methods.look_sam, {"every": 3, "alpha": 0.5}),
  (
    ae_sam,
    methods.ae_sam,
    {
      "total_steps": STEPS,
      "first_threshold": 0.3,
      "last_threshold": -0.8,
      "decay": 0.6,
    },
  ),
  (momentum_sam, methods.momentum_sam, {"decay": 0.8}),
  (single_step_sam, methods.single_step_sam, {}),
  (
    adaptive_single_step_sam_every_second,
    methods.single_step_sam,
    {"adaptive": True, "eta": 0.2, "every": 2},
  ),
]


def reference_run(reference, num_shards):
  """Return w after every step; the shards average direction and memory."""
  w, memory, path = np.asarray(W, np.float64), None, []
  for t in range(STEPS):
    directions, memories = zip(
      *(
        reference(w, gradient_of_shard(center), memory, t)
        for center in CENTERS[t, :num_shards]
      ),
      strict=True,
    )
    w = w - LEARNING_RATE * np.mean(directions, axis=0)
    memory = None if memories[0] is None else np.mean(memories, axis=0)
    path.append(w)
  return np.stack(path)
