"""Archives that others publish, compared with their checksums."""

import hashlib
from typing import Any

from etils import epath


def fetch(dl_manager: Any, url: str, md5: str) -> epath.Path:
  """Download an archive, compare its checksum, and extract it.

  TFDS compares SHA-256 alone, but what is known of some archives is the MD5.

  Args:
    dl_manager: TFDS's download manager.
    url: Address of the archive.
    md5: Its MD5 in hexadecimal digits.

  Returns:
    The directory of its contents.

  Raises:
    ValueError: The archive is damaged, or is not the one that was published.
  """
  archive = epath.Path(dl_manager.download(url))
  with archive.open("rb") as file:
    found = hashlib.file_digest(file, "md5").hexdigest()
  if found != md5:
    # TFDS would take what it has downloaded once, by the notes next to it.
    archive.unlink()
    archive.with_name(f"{archive.name}.INFO").unlink(missing_ok=True)
    raise ValueError(
      f"{url} has the MD5 {found}, not {md5}: the download was damaged, or this"
      " is another archive. It is removed; prepare the data set again."
    )
  return epath.Path(dl_manager.extract(archive))
