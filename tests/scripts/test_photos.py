"""The photographs of the demonstration."""

from sam_jax.datasets import image_folder
from scripts import photos


def test_photographs_are_a_data_set(tmp_path):
  photos.write(tmp_path)
  folder = image_folder.find(str(tmp_path))
  assert folder.class_names == ("flower", "portrait", "temple")
  assert (len(folder.train), len(folder.test)) == (120, 48)
  suffixes = {name.rpartition(".")[2] for name in folder.train.files.names}
  assert suffixes == {"jpg", "png", "webp"}
