"""SAM against SGD: equal cost, label noise, augmentation, fine-tuning."""

from sam_jax import wording
from scripts.reproduce import plots, transfer
from scripts.reproduce.claims import lower
from scripts.reproduce.runs import Arm, Runs
from scripts.reproduce.studies.section import Section, chosen, format_mean

_ERROR = "test error %"


def comparison(runs: Runs) -> Section:
  """Compare SAM with SGD of as many epochs, and of as many gradients."""
  epochs = runs.level.epochs
  once, twice = (wording.count(n * epochs, "epoch") for n in (1, 2))
  arms = {
    f"SGD, {once}": runs.sgd(),
    f"SGD, {twice}": runs.sgd({"num_epochs": 2 * epochs}),
    f"SAM, {once}": runs.sam(),
  }
  sgd, longer, sam = (arm.errors for arm in arms.values())
  return Section(
    "SAM against SGD",
    "A step of SAM costs two of SGD's, so SGD with twice the epochs costs as"
    " much. SGD's learning rate, separately for both lengths, and SAM's rho are"
    " the best on validation images; SAM has the learning rate of SGD.",
    ("method", "gradients per image", "learning rate or rho", _ERROR),
    [
      (name, str(_cost(arm, epochs)), chosen(arm), format_mean(arm.errors))
      for name, arm in arms.items()
    ],
    [
      lower(
        "SAM's test error is lower than SGD's after as many epochs",
        "Tables 1, 2, 5",
        "2.7 against 3.5 (CIFAR-10), 3.98 against 4.57 (Fashion-MNIST)",
        sam,
        sgd,
      ),
      lower(
        "SAM's test error is lower than SGD's at equal cost, twice the epochs",
        "section 3.1",
        "the same numbers: those of SGD are the better of N and 2N epochs",
        sam,
        longer,
      ),
    ],
  )


def _cost(arm: Arm, epochs: int) -> int:
  passes = 2 if arm.fields["sam.rho"] else 1
  return passes * arm.fields.get("num_epochs", epochs)


def time_to_accuracy(runs: Runs) -> Section:
  """Find the cheapest schedule that reaches an accuracy, with SGD and SAM."""
  lengths = (8, 15, 30, 60)
  base = {
    "SGD": {"sam.rho": 0.0, "optimizer.learning_rate": runs.sgd().chosen},
    "SAM": {
      "sam.rho": runs.sam().chosen,
      "optimizer.learning_rate": runs.sgd().chosen,
    },
  }
  arms = {
    (name, length): runs.arm({**fields, "num_epochs": length})
    for name, fields in base.items()
    for length in lengths
  }
  return Section(
    "Time to accuracy",
    "The whole learning rate schedule within a few epochs. The last column is"
    " the highest of 94, 95 and 96% that the mean accuracy reaches.",
    ("method", "epochs", "gradients per image", _ERROR, "accuracy reached"),
    [
      (
        name,
        str(length),
        str(_cost(arm, length)),
        format_mean(arm.errors),
        _threshold(100 - float(arm.errors.mean())),
      )
      for (name, length), arm in arms.items()
    ],
    [],
  )


def _threshold(accuracy: float) -> str:
  reached = [percent for percent in (94, 95, 96) if accuracy >= percent]
  return f"{reached[-1]}%" if reached else "none"


# Test errors of table 4: SGD, Mixup, SAM, bootstrapped SAM.
_TABLE_4 = {
  0.2: (15.2, 7.0, 4.9, 4.6),
  0.4: (31.2, 10.0, 6.6, 5.8),
  0.6: (51.8, 16.2, 9.5, 8.2),
  0.8: (73.8, 29.8, 22.1, 20.1),
}
_RIVALS = ("SGD", "Mixup", "SAM", "Bootstrap + SAM")


def label_noise(runs: Runs) -> Section:
  """Compare SAM with its rivals where some training labels are wrong."""
  rates = runs.level.noise_rates
  arms = {rate: _with_noise(runs, rate) for rate in rates}
  rows, claims = [], []
  for rate, methods in arms.items():
    for name, paper in zip(_RIVALS, _TABLE_4[rate], strict=True):
      arm = methods[name]
      rows.append(
        (
          f"{rate:.0%}",
          name,
          f"{paper:.1f}",
          chosen(arm),
          format_mean(arm.errors),
        )
      )
    of_paper = dict(zip(_RIVALS, _TABLE_4[rate], strict=True))
    for first, second in (
      ("SAM", "SGD"),
      ("SAM", "Mixup"),
      ("Bootstrap + SAM", "SAM"),
    ):
      claims.append(
        lower(
          f"With {rate:.0%} noise {first} has a lower test error than {second}",
          "Table 4",
          f"{of_paper[first]:.1f} against {of_paper[second]:.1f}",
          methods[first].errors,
          methods[second].errors,
        )
      )
  return Section(
    "Label noise",
    "That fraction of the training labels is drawn again from all classes, for"
    " every seed in another way; validation and test labels are clean."
    " Bootstrap trains a second network on the labels that SAM's network"
    " predicts. Mixup's alpha and SAM's rho are the best on validation images,"
    " for every rate; all have the learning rate that is SGD's best without"
    " noise.",
    ("noise", "method", "paper, CIFAR-10", "alpha or rho", _ERROR),
    rows,
    claims,
    lambda path: plots.draw_against_noise(
      {n: [arms[rate][n].errors for rate in rates] for n in _RIVALS},
      [100 * rate for rate in rates],
      path,
    ),
    "Test error against label noise, with 95% intervals.",
  )


def _with_noise(runs: Runs, rate: float) -> dict[str, Arm]:
  noise = {**runs.level.noise, "dataset.label_noise.rate": rate}
  own = {"optimizer.learning_rate": runs.sgd().chosen, **noise}
  sam = runs.sam(noise, runs.level.noise_rhos)
  relabeled = {
    **sam.fields,
    "dataset.label_noise.rate": 0.0,
    "dataset.label_file": "predicted",
  }
  plain = {**own, "sam.rho": 0.0}
  alphas = runs.level.mixup_alphas
  return {
    "SGD": runs.arm(plain),
    "Mixup": runs.arm(plain, "augment.mixup_alpha", alphas),
    "SAM": sam,
    "Bootstrap + SAM": runs.arm(relabeled, sources=sam.runs),
  }


def augmentation(runs: Runs) -> Section:
  """Compare SAM with SGD on augmented images."""
  kinds = {
    "basic (flips and crops)": {"augment.policy": "basic"},
    "basic and cutout": {
      "augment.policy": "basic",
      "augment.cutout": "batch",
      "augment.cutout_size": runs.level.fields["dataset.image_size"] // 2,
    },
  }
  paper = ("3.98 against 4.57", "3.61 against 3.86")
  arms = {name: (runs.sgd(f), runs.sam(f)) for name, f in kinds.items()}
  return Section(
    "SAM with augmentation",
    "The augmentations of the paper's table 5 (its row AA is cutout on this"
    " data set). The learning rate and rho are chosen on validation images for"
    " each augmentation.",
    ("augmentation", "SGD's learning rate", "SAM's rho", "SGD %", "SAM %"),
    [
      (
        name,
        chosen(sgd),
        chosen(sam),
        format_mean(sgd.errors),
        format_mean(sam.errors),
      )
      for name, (sgd, sam) in arms.items()
    ],
    [
      lower(
        f"With {name} SAM's test error is lower than SGD's",
        "Table 5",
        numbers,
        sam.errors,
        sgd.errors,
      )
      for numbers, (name, (sgd, sam)) in zip(paper, arms.items(), strict=True)
    ],
  )


def fine_tuning(runs: Runs) -> Section:
  """Compare SAM with SGD from a network pretrained on other classes."""
  folder = {
    "dataset.name": "image_folder",
    "dataset.parts": 1,
    "dataset.validation_size": 0,
  }
  pretrained = runs.make(
    {
      **folder,
      "dataset.data_dir": transfer.PRETRAINING,
      "sam.rho": 0.0,
      "optimizer.learning_rate": 0.1,
    },
    seed=0,
  )
  own = {**folder, "dataset.data_dir": transfer.FINE_TUNING, "sam.rho": 0.0}
  rates = runs.level.learning_rates
  axis, count = "optimizer.learning_rate", runs.level.seeds
  sources = [pretrained] * count
  sgd = runs.arm(own, axis, rates, sources)
  sam = runs.arm(sgd.fields, "sam.rho", runs.level.rhos, sources)
  scratch = runs.arm(own, axis, rates)
  first, last = transfer.FIRST_NEW_CLASS, 9
  return Section(
    "Fine-tuning",
    f"A network that SGD trained on {transfer.NUM_PRETRAINING:,} images of the"
    f" classes 0 to {first - 1} is fine-tuned on {transfer.NUM_FINE_TUNING}"
    f" images of the classes {first} to {last}, with frozen batch statistics,"
    f" as in the paper; it is tested on {transfer.NUM_EVALUATED:,} test images"
    " of these classes.",
    ("method", "chosen", _ERROR),
    [
      ("SGD from random weights", chosen(scratch), format_mean(scratch.errors)),
      ("SGD, fine-tuned", chosen(sgd), format_mean(sgd.errors)),
      ("SAM, fine-tuned", chosen(sam), format_mean(sam.errors)),
    ],
    [
      lower(
        "Fine-tuning with SAM gives a lower test error than with SGD",
        "Table 3",
        "6.80 against 8.15 (Aircraft), 0.88 against 0.95 (CIFAR-10)",
        sam.errors,
        sgd.errors,
      )
    ],
  )
