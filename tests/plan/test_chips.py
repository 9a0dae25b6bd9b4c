"""Names of slices, and how their chips make up hosts."""

import pytest

from sam_jax.plan import chips


@pytest.mark.parametrize(
  ("name", "devices", "hosts", "host_sides"),
  [
    ("v3:4x8", 64, 8, (2, 2, 1)),  # two devices a chip
    ("v4:4x4x4", 64, 16, (2, 2, 1)),
    ("v4:2x2x1", 4, 1, (2, 2, 1)),
    ("v5e:1x1", 1, 1, (1, 1, 1)),
    ("v5e:2x4", 8, 1, (2, 4, 1)),  # one host of eight
    ("v5e:4x4", 16, 4, (2, 2, 1)),
    ("v5e:16x16", 256, 64, (2, 2, 1)),
    ("v5p:2x2x2", 8, 2, (2, 2, 1)),
    ("v6e:8x8", 64, 16, (2, 2, 1)),
  ],
)
def test_devices_and_hosts(name, devices, hosts, host_sides):
  tpu = chips.parse_topology(name)
  assert (tpu.num_devices, tpu.num_hosts) == (devices, hosts)
  assert tpu.host_sides == host_sides


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("v9:2x2", "'v9' is no chip that is known here; known: v3, v4, v5e"),
    ("v5litepod-8", "Give chip and sides: --topology=v5e:8x8"),
    ("v5e", "a slice of v5e has 2 sides: --topology=v5e:4x4"),
    ("v5e:2x2x2", "a slice of v5e has 2 sides"),
    ("v4:8x8", "a slice of v4 has 3 sides: --topology=v4:4x4x4"),
    ("v5e:0x4", "a slice of v5e has 2 sides"),
    ("v5e:16x32", "largest slice of v5e has 256 chips"),
    ("v5e:3x4", "made of hosts with 2x2 chips"),
  ],
)
def test_wrong_slices_are_refused(name, message):
  with pytest.raises(ValueError, match=f"--topology={name}: .*{message}"):
    chips.parse_topology(name)
