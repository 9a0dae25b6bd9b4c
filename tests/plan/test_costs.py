"""Costs of a program as text, which libtpu does not need to read."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from sam_jax.plan import hlo
from sam_jax.plan.costs import Collective, costs

# A loop of two convolutions, shortened from a program that libtpu compiled.
TEXT = (pathlib.Path(__file__).parent / "program.txt").read_text()
PROGRAM = hlo.parse(TEXT)


@pytest.mark.parametrize(
  ("text", "size", "padded"),
  [
    ("f32[]{:T(128)}", 4, 512),
    ("f32[130]{0:T(128)}", 520, 1024),
    # 32 images in 128 lanes, 3 channels in 8 sublanes.
    ("f32[32,5,5,3]{0,3,2,1:T(8,128)}", 9600, 25 * 8 * 128 * 4),
    ("bf16[16,32,32,16]{0,3,2,1:T(8,128)(2,1)}", 2**19, 2**22),
    ("f32[3,3,3,16]{3,2,1,0:T(4,128)}", 1728, 9 * 4 * 128 * 4),
    ("pred[7]", 7, 7),
  ],
)
def test_memory_holds_whole_tiles(text, size, padded):
  (shape,) = hlo.parse_shapes(text)
  assert (shape.bytes, shape.padded_bytes) == (size, padded)
  assert shape.hbm_bytes == padded


def test_arrays_on_the_chip_take_no_memory():
  (shape,) = hlo.parse_shapes("f32[16]{0:T(128)S(1)}")
  assert (shape.padded_bytes, shape.hbm_bytes) == (512, 0)


def test_a_tuple_has_several_arrays():
  shapes = hlo.parse_shapes("(f32[2]{0:T(128)}, /*index=1*/s32[], bf16[3,4])")
  assert [(s.dtype, s.dims) for s in shapes] == [
    ("f32", (2,)),
    ("s32", ()),
    ("bf16", (3, 4)),
  ]


def test_loops_count_as_often_as_they_run():
  found = costs(PROGRAM, num_devices=8)
  assert (found.loops, found.conditionals) == ([2], 0)
  # Stride 2 with a pixel of padding at the end: 31 of 32 pairs of each row.
  pairs = (3 * 16 - 1) ** 2
  assert found.flops == 2 * 2 * 16 * 16 * 32 * pairs
  assert (found.aliases, found.results) == (2, 3)


def test_fusions_read_the_part_that_they_slice():
  found = costs(PROGRAM, num_devices=8)
  kernel, vector = 9 * 16 * 128 * 4, 512
  images = 32 * 32 * 16 * 128 * 2  # one of two microbatches
  result = 16 * 16 * 32 * 128 * 4
  in_loop = images + kernel + result + result  # the copy reads the result
  all_reduces = kernel + vector + kernel + 2 * vector
  # The start of the second one has read its argument and will write its result.
  assert found.hbm_bytes == pytest.approx(2 * in_loop + all_reduces, abs=512)
  assert (found.copies, found.copied_bytes) == (2, 2 * result)


def test_collectives_are_told_apart():
  found = costs(PROGRAM, num_devices=8)
  size = (3 * 3 * 16 * 32 + 32) * 4
  assert found.collectives == {
    Collective("all-reduce", 8, is_async=False): (1, size),
    Collective("all-reduce", 2, is_async=True): (1, 128),
  }
  assert found.link_bytes(is_async=False) == 2 * size * 7 / 8
  assert found.link_bytes(is_async=True) == 2 * 128 / 2


def test_text_without_a_program_is_refused():
  with pytest.raises(ValueError, match="no entry"):
    hlo.parse("HloModule nothing\n")


@pytest.mark.parametrize(
  "options",
  [
    {"window_strides": (1, 1), "padding": "SAME"},
    {"window_strides": (2, 3), "padding": "VALID"},
    {"window_strides": (1, 1), "padding": ((3, 0), (1, 2))},
    {
      "window_strides": (1, 1),
      "padding": ((1, 1), (2, 0)),
      "lhs_dilation": (2, 1),
    },
    {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (1, 2)},
    {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 4},
  ],
)
def test_flops_of_convolutions_are_those_of_xla(options):
  """XLA counts the same products, whichever they are, before it optimizes."""

  def convolve(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
      x, kernel, dimension_numbers=numbers, **options
    )

  inputs = 8 // options.get("feature_group_count", 1)
  arguments = (
    jax.ShapeDtypeStruct((2, 9, 11, 8), "float32"),
    jax.ShapeDtypeStruct((3, 4, inputs, 12), "float32"),
  )
  lowered = jax.jit(convolve).lower(*arguments)
  text = lowered.compiler_ir("hlo").as_hlo_module().to_string()
  expected = lowered.cost_analysis()["flops"]
  assert costs(hlo.parse(text), 1).flops == expected


def test_flops_of_products_are_those_of_xla():
  def multiply(x, y):
    return lax.dot_general(x, y, (((2,), (1,)), ((0,), (0,))))

  arguments = (
    jax.ShapeDtypeStruct((3, 5, 7), "float32"),
    jax.ShapeDtypeStruct((3, 7, 2), "float32"),
  )
  lowered = jax.jit(multiply).lower(*arguments)
  text = lowered.compiler_ir("hlo").as_hlo_module().to_string()
  assert costs(hlo.parse(text), 1).flops == lowered.cost_analysis()["flops"]


def test_a_conditional_costs_the_mean_of_its_branches():
  def choose(index, x):
    return lax.switch(index, [lambda x: x @ x, lambda x: x, lambda x: 2 * x], x)

  arguments = jnp.int32(0), jnp.zeros((5, 5))
  lowered = jax.jit(choose).lower(*arguments)
  text = lowered.compiler_ir("hlo").as_hlo_module().to_string()
  found = costs(hlo.parse(text), 1)
  assert (found.conditionals, found.flops) == (1, pytest.approx(2 * 5**3 / 3))


@pytest.mark.parametrize(
  ("dtype", "precision", "passes"),
  [
    ("f32", "", 1),
    ("f32", "high", 3),
    ("f32", "highest", 6),
    ("bf16", "highest", 1),
  ],
)
def test_precision_takes_passes(dtype, precision, passes):
  added = f", operand_precision={{{precision},{precision}}}, window"
  text = TEXT.replace(", window", added if precision else ", window")
  if dtype == "f32":
    text = text.replace("bf16[", "f32[")
  found = costs(hlo.parse(text), num_devices=8)
  assert found.flops == costs(PROGRAM, num_devices=8).flops
  assert found.pass_flops == passes * found.flops
