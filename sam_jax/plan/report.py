"""The text of a plan."""

import math
from collections.abc import Callable, Sequence

from sam_jax import wording
from sam_jax.plan import compiler, estimates, programs
from sam_jax.plan.chips import GIB, MIB
from sam_jax.plan.compiler import Compiled
from sam_jax.plan.costs import Costs
from sam_jax.plan.estimates import Plan
from sam_jax.training import build

COMPILED, ESTIMATED = "compiled", "estimated"

Row = tuple[str, Sequence[str], str]


def report(plan: Plan) -> str:
  """Return the lines that the command prints."""
  paragraphs = [
    _title(plan),
    _verdict(plan),
    _table("MiB of a device", plan, _memory_rows(plan)),
    _table("a device, a step", plan, _cost_rows(plan)),
    "\n".join(_collectives(plan)),
    "\n".join(_bounds(plan)),
  ]
  return "\n\n".join(paragraphs)


def _title(plan: Plan) -> str:
  config, tpu = plan.config, plan.tpu
  shards = build.layout(config, tpu.num_devices)
  layout = wording.count(shards.microbatches, "microbatch", "microbatches")
  if shards.devices_per_shard > 1:
    layout = f"groups of {shards.devices_per_shard} devices"
  remat = ", remat" if config.model.remat else ""
  return (
    f"{config.model.name} ({config.model.dtype}{remat}) on"
    f" {config.dataset.name}, {tpu.name}:"
    f" {wording.count(tpu.num_devices, 'device')},"
    f" {wording.count(tpu.num_hosts, 'host')}; batch {config.batch_size} ="
    f" {config.batch_size // tpu.num_devices} a device, m = {shards.m}:"
    f" {layout}\n"
    f"No program ran. {COMPILED}: read from the program that libtpu"
    f" {compiler.libtpu_version()} compiled.\n{ESTIMATED}: computed from that"
    f" and from the peaks of the chip, {tpu.chip.page}."
  )


def _verdict(plan: Plan) -> str:
  needed, usable = plan.needed_bytes / GIB, plan.tpu.chip.usable_bytes / GIB
  if plan.fits:
    return f"Fits: needs {needed:.2f} of {usable:.2f} GiB ({COMPILED})."
  lines = [
    f"Does not fit: needs {needed:.2f} of {usable:.2f} GiB ({COMPILED}). Try:"
  ]
  return "\n".join(lines + [f"  {each}" for each in plan.remedies()])


def _memory_rows(plan: Plan) -> list[Row]:
  kinds = list(plan.step.bytes_by_kind)
  rows = []
  for kind in kinds:
    sizes = [c.bytes_by_kind.get(kind) for c in plan.compiled.values()]
    if any(sizes):
      rows.append((kind, [_mib(size) for size in sizes], COMPILED))
  return [
    *rows,
    _row(
      "activations, gradients, results",
      plan,
      lambda c: _mib(c.temporary_bytes),
      COMPILED,
    ),
    _row("all", plan, lambda c: _mib(c.total_bytes), COMPILED),
    (
      "batches prepared ahead",
      [_mib(plan.prepared_bytes)] + [""] * (len(plan.compiled) - 1),
      ESTIMATED,
    ),
  ]


def _cost_rows(plan: Plan) -> list[Row]:
  chip, times = plan.tpu.chip, plan.times
  names = list(plan.compiled)

  def of_costs(name: str, text: Callable[[Costs], str], label: str) -> Row:
    return _row(name, plan, lambda c: text(c.costs), label)

  def milliseconds(name: str, part: str) -> Row:
    cells = [_digits(1e3 * getattr(times(p), part)) for p in names]
    return name, cells, ESTIMATED

  per_device = 1 / chip.devices_per_chip
  return [
    of_costs("GFLOP", lambda c: _digits(c.flops / 1e9), COMPILED),
    of_costs(
      "GFLOP in passes of bfloat16",
      lambda c: _digits(c.pass_flops / 1e9),
      COMPILED,
    ),
    of_costs(
      "GB of HBM, whole tiles", lambda c: _digits(c.hbm_bytes / 1e9), ESTIMATED
    ),
    of_costs(
      "GB of HBM, elements",
      lambda c: _digits(c.element_bytes / 1e9),
      ESTIMATED,
    ),
    of_costs("layout copies", lambda c: f"{c.copies:,}", COMPILED),
    of_costs(
      "GB that they move", lambda c: _digits(c.copied_bytes / 1e9), COMPILED
    ),
    of_costs("gathered, one by one", lambda c: f"{c.gathered:,}", COMPILED),
    of_costs("loops (trips)", _loops, COMPILED),
    of_costs("conditionals", lambda c: f"{c.conditionals}", COMPILED),
    of_costs(
      "results in donated memory",
      lambda c: f"{c.aliases}/{c.results}",
      COMPILED,
    ),
    milliseconds(
      f"ms at {chip.flops * per_device / 1e12:g} TFLOP/s", "compute"
    ),
    milliseconds(
      f"ms at {chip.hbm_bandwidth * per_device / 1e9:g} GB/s", "memory"
    ),
    milliseconds("ms of links, waiting", "links"),
    milliseconds("ms of links, hidden", "hidden_links"),
    milliseconds("ms, at least", "total"),
    _row("seconds to compile here", plan, lambda c: f"{c.seconds:.0f}", "run"),
  ]


def _loops(costs: Costs) -> str:
  """Return the trips of each loop, such as "32" or "2 x 8, ?"."""
  found: dict[int | None, int] = {}
  for trips in costs.loops:
    found[trips] = found.get(trips, 0) + 1
  texts = []
  for trips, count in found.items():
    text = "?" if trips is None else str(trips)
    texts.append(text if count == 1 else f"{count} x {text}")
  return ", ".join(texts) or "none"


def _collectives(plan: Plan) -> list[str]:
  lines = []
  for name, program in plan.compiled.items():
    for each, (count, size) in program.costs.collectives.items():
      kind = "asynchronous" if each.is_async else "blocking"
      lines.append(
        f"{name}: {count} {kind} {each.kind}, {_digits(size / 1e6)} MB in all,"
        f" over {each.devices} of {plan.tpu.num_devices} devices ({COMPILED})"
      )
  return lines or ["No collectives."]


def _bounds(plan: Plan) -> list[str]:
  config, tpu, rate = plan.config, plan.tpu, plan.images_per_second
  lines = []
  if {programs.SAM, programs.SGD} <= set(plan.compiled):
    sam, sgd = (plan.compiled[n] for n in (programs.SAM, programs.SGD))
    time = plan.times(programs.SAM).total / plan.times(programs.SGD).total
    more = (sam.total_bytes - sgd.total_bytes) / MIB
    copy = sam.bytes_by_kind["parameters"] / MIB
    lines.append(
      f"SAM over SGD: {_ratio(sam.costs.flops, sgd.costs.flops)} of FLOPs"
      f" ({COMPILED}), {time:.2f} of time ({ESTIMATED}), {more:+,.1f} MiB; the"
      f" parameters have {copy:,.1f} ({COMPILED})"
    )
  lines.append(
    f"At most {rate:,.0f} images/s, {_digits(1e3 * plan.step_seconds)} ms a"
    f" step ({ESTIMATED})"
  )
  if plan.steps is None:
    lines.append(
      f"Hours: the catalog does not know the size of {plan.spec.name}"
    )
  else:
    seconds = plan.steps * plan.step_seconds
    hours = config.num_epochs * seconds / 3600
    lines.append(
      f"{wording.count(config.num_epochs, 'epoch')} of"
      f" {wording.count(plan.steps, 'step')} take at least"
      f" {_digits(hours)} hours without evaluation ({ESTIMATED})"
    )
  host = rate / tpu.num_hosts
  lines.append(
    f"Each of {wording.count(tpu.num_hosts, 'host')} sends {host:,.0f}"
    f" images/s, {host * plan.image_bytes / 1e6:,.0f} MB/s, to its devices"
    f" ({ESTIMATED})"
  )
  if plan.is_streamed:
    cores = host / estimates.DECODED_PER_CPU_SECOND
    lines.append(
      f"and for that reads {host * estimates.BYTES_PER_FILE / 1e6:,.0f} MB/s"
      f" and decodes on {cores:,.0f} CPU cores, with files and speed of"
      f" ImageNet ({ESTIMATED})"
    )
  return lines


def _ratio(a: float, b: float) -> str:
  return f"{a / b:.2f}" if b else "-"


def _row(
  name: str, plan: Plan, text: Callable[[Compiled], str], label: str
) -> Row:
  return name, [text(program) for program in plan.compiled.values()], label


def _mib(size: int | None) -> str:
  return "" if size is None else f"{size / MIB:,.1f}"


def _digits(number: float) -> str:
  """Return a number with three digits, or all of those before the point."""
  decimals = 2 - math.floor(math.log10(number)) if number else 0
  return f"{number:,.{min(max(decimals, 0), 6)}f}"


def _table(title: str, plan: Plan, rows: list[Row]) -> str:
  """Return aligned columns, one for each program."""
  lines = [(title, list(plan.compiled), ""), *rows]
  width = max(len(name) for name, _, _ in lines)
  cell = 2 + max(len(text) for _, cells, _ in lines for text in cells)
  return "\n".join(
    f"{name:{width}}{''.join(f'{t:>{cell}}' for t in cells)}  {label}".rstrip()
    for name, cells, label in lines
  )
