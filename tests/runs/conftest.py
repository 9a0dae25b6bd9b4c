"""A disk that is full, for tests of what runs write."""

import resource

import pytest


@pytest.fixture
def limit_file_size():
  """Let writes beyond some bytes of a file fail, as those on a full disk do."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
