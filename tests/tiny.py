"""A network and a data set that take no time to compile or to prepare."""

import numpy as np
from flax import linen as nn

from sam_jax.config.schema import default_config
from sam_jax.datasets.catalog import dataset_spec
from sam_jax.datasets.in_memory import InMemoryDataset
from sam_jax.models import Classifier, layers
from sam_jax.models.layers import LayerSettings


class Perceptron(nn.Module):
  """One hidden layer; it may drop inputs."""

  dropout_rate: float = 0.0
  settings: LayerSettings = LayerSettings()  # as all networks have; not used

  @nn.compact
  def __call__(self, x, *, train, true_gradient=False):
    x = x.reshape(len(x), -1)
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
    return nn.Dense(10)(nn.relu(nn.Dense(32)(x)))


class Linear(Classifier):
  """A linear classifier of coarse colors, as `config.model.name`."""

  @nn.compact
  def logits(self, x, settings):
    """Return logits [N, num_classes] of images [N, H, W, C]."""
    x = x[:, 2::4, 2::4].reshape(len(x), -1)
    return nn.Dense(self.num_classes, dtype=settings.dtype)(x)


class ConvNet(Classifier):
  """A network with each kind of state, as `config.model.name`.

  It has a convolution, batch statistics, random layers and a linear layer, and
  takes a quarter of the time of the smallest wide ResNet.
  """

  dropout_rate: float = 0.0

  @nn.compact
  def logits(self, x, settings):
    """Return logits [N, num_classes] of images [N, H, W, C]."""
    x = layers.conv(x, 8, 3, settings, strides=(2, 2), name="Conv_0")
    x = layers.norm_relu(x, settings, name="BatchNorm_1")
    if settings.train and self.dropout_rate:
      x = layers.dropout(x, self.make_rng("dropout"), self.dropout_rate)
    return layers.dense_logits(x, self.num_classes, name="Dense_2")


def create_model(*_):
  """Stand in for `sam_jax.training.build.model`."""
  return Perceptron()


def create_config():
  """Return a config for `create_dataset`; its network is not built."""
  config = default_config()
  config.model.name, config.dataset.name = "cnn4", "digits"
  config.num_epochs, config.batch_size = 1, 16
  config.augment.policy = "none"
  return config


def create_dataset(config, seed=0, **place):
  """Stand in for `input_pipeline.create_dataset`: random digits."""
  random = np.random.default_rng(0)
  images = random.integers(256, size=(64, 8, 8, 1), dtype=np.uint8)
  examples = images, random.integers(10, size=64, dtype=np.int32)
  size = config.batch_size
  return InMemoryDataset(
    *(dataset_spec("digits"), examples, examples),
    batch_size=size,
    eval_batch_size=config.eval_batch_size or size,
    seed=seed,
    **place,
  )
