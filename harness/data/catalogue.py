"""The data sets by name: shapes, classes, sizes, what each of them needs. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from harness.config.custom_data import custom_set, unknown_set
from harness.config.parts import CustomData, Data, Features
from harness.errors import HarnessError

NEIGHBOURS = 3
"""Nearest neighbours that precision and recall look at (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""


@dataclass(frozen=True)
class RareClass:
    """A class of the data set `base` that keeps so few rows that it is this share of what remains; the other classes keep all rows."""

    base: str
    label: int
    share: float


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set is. shape: (C, H, W), or (d,) for points. classes: 0 where unlabelled. train, heldout: rows, 0 for none.

    needs: what must exist before the set can be loaded. source: an example of what `harness prepare` takes, None where nothing is
    prepared. recipe: the default way of resizing its images (see harness.data.prepare.images), "as-is" for images of the right size.
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    train: int
    heldout: int
    needs: str
    source: str | None = None
    recipe: str = "as-is"
    rare: RareClass | None = None
    """For a variant of another set in which one class is rare."""
    features: Features = "inception"
    """What measures the images of a set that has to be prepared."""
    custom: CustomData | None = None
    """For a set of the user's own."""

    @property
    def needs_inception(self) -> bool:
        """Whether its images are measured by Inception, whose weights are needed then."""
        return self.source is not None and self.features == "inception"

    @property
    def base(self) -> str:
        """The set whose rows these are and whose classifier measures them: itself, or that of which it is a variant."""
        return self.rare.base if self.rare else self.name

    @property
    def dim(self) -> int:
        return prod(self.shape)

    @property
    def fix(self) -> str:
        """The command, or else the action, that makes the data set loadable."""
        return f"harness prepare {self.name} --from /path/to/{self.source}" if self.source else self.needs


_SEED = "nothing: the points are drawn from a fixed seed"
_DIGITS = "nothing: scikit-learn contains them"
_FASHION = (
    "one of three: the four idx files in $HARNESS_DATA/fashion-mnist; the Debian package (apt-get install dataset-fashion-mnist); "
    "a network for torchvision's download"
)
_CIFAR = "cifar-10-python.tar.gz, or its folder cifar-10-batches-py"
_IMAGENET = "the ILSVRC2012 tree (train/CLASS/*.JPEG, val/CLASS/*.JPEG) or the official down-sampled train_data_batch_*, val_data"
_CELEBA = "img_align_celeba (folder or zip) with list_eval_partition.txt beside it, the official root, or Kaggle's archive"
_LSUN = "the LMDB folders church_outdoor_train_lmdb and church_outdoor_val_lmdb, or their exported images"
_FFHQ = "the pngs: images1024x1024 or thumbnails128x128"
# ImageNet-32 [released code]: bilinear and centre crop; ImageNet-64 and FFHQ-64: as EDM (arXiv 2206.00364) prepares them;
# CelebA-64: the usual centre crop of 140; Church-64: the paper does not say.
REGISTRY = {
    dataset.name: dataset
    for dataset in (
        DatasetInfo("two-gaussians", (2,), 2, 4096, 4096, _SEED),
        DatasetInfo("eight-gaussians", (2,), 8, 4096, 4096, _SEED),
        DatasetInfo("two-moons", (2,), 2, 4096, 4096, _SEED),
        DatasetInfo("digits", (1, 8, 8), 10, 1437, 360, _DIGITS),
        DatasetInfo("fashion-mnist", (1, 32, 32), 10, 60_000, 10_000, _FASHION),
        DatasetInfo("cifar10", (3, 32, 32), 10, 50_000, 10_000, _CIFAR, "cifar-10-python.tar.gz"),
        DatasetInfo("imagenet32", (3, 32, 32), 1000, 1_281_167, 50_000, _IMAGENET, "ILSVRC2012", "shorter-bilinear"),
        DatasetInfo("celeba64", (3, 64, 64), 0, 162_770, 39_829, _CELEBA, "celeba", "crop140-bilinear"),
        DatasetInfo("church64", (3, 64, 64), 0, 126_227, 300, _LSUN, "lsun", "square-bilinear"),
        DatasetInfo("ffhq64", (3, 64, 64), 0, 70_000, 0, _FFHQ, "images1024x1024", "square-lanczos"),
        DatasetInfo("imagenet64", (3, 64, 64), 1000, 1_281_167, 50_000, _IMAGENET, "ILSVRC2012", "adm"),
        # The eight modes differ in their place only. Of the digits, 4 is the one that poor samples are taken for least often: of the
        # blends of two other digits, the classifier takes 0.04 % for a 4, but 0.2 % to 32 % for each of the others. By the same measure
        # it is class 1 of Fashion-MNIST, trousers.
        DatasetInfo("eight-gaussians-rare", (2,), 8, 3589, 3616, _SEED, rare=RareClass("eight-gaussians", label=0, share=0.01)),
        DatasetInfo("digits-rare", (1, 8, 8), 10, 1305, 327, _DIGITS, rare=RareClass("digits", label=4, share=0.01)),
        DatasetInfo("gaussian", (2,), 1, 4096, 4096, _SEED),
        DatasetInfo("fashion-mnist-rare", (1, 32, 32), 10, 54_545, 9091, _FASHION, rare=RareClass("fashion-mnist", label=1, share=0.01)),
    )
}
TOYS = tuple(name for name, dataset in REGISTRY.items() if len(dataset.shape) == 1)


def main_metric(name: str) -> Literal["fid", "w2"]:
    """The metric by which samples of this data set are judged: W2 for points, FID for images."""
    return "w2" if name in TOYS else "fid"


def least_samples(name: str) -> int:
    """The smallest number of samples that the metrics of this data set take: two points, or two images more than NEIGHBOURS.

    The baselines leave one image out at a time, and the others need that many neighbours each.
    """
    return 2 if name in TOYS else NEIGHBOURS + 2


def too_few_samples(found: int, least: int) -> HarnessError:
    """The error for an evaluation with fewer samples than its metrics take."""
    return HarnessError("too few samples to measure", where="evaluation.samples", found=found, expected=f"at least {least}")


def metric_label(name: str) -> str:
    """`main_metric` as tables and progress lines print it."""
    return main_metric(name).upper()


def info(name: str) -> DatasetInfo:
    """The entry of that name, or that of a set of the user's own in the data folder. Raises HarnessError, with the nearest name, for an
    unknown one."""
    if name in REGISTRY:
        return REGISTRY[name]
    custom = custom_set(name)
    if custom is None:
        raise unknown_set(name, list(REGISTRY), where="data.name")
    return of_custom(name, custom)


def of_custom(name: str, custom: CustomData) -> DatasetInfo:
    """The entry of a set of the user's own."""
    source = f"images --size {custom.shape[1]}"
    needs = "images of your own: a folder, a zip, an npz or Parquet files"
    return DatasetInfo(
        name, custom.shape, custom.classes, custom.train, custom.heldout, needs, source, features=custom.features, custom=custom
    )


def info_of(data: Data) -> DatasetInfo:
    """The entry of a run's data set. The config of a run describes a set of the user's own, which need not be here. Raises as `info`."""
    return info(data.name) if data.custom is None else of_custom(data.name, data.custom)


def check_content(name: str, custom: CustomData | None) -> None:
    """Raises HarnessError unless the data folder holds the set that a run or baselines job was declared with; None for the catalogue's."""
    here = info(name).custom
    if here == custom:
        return
    found, expected = ("the catalogue's" if of is None else f"{of.label}, measured by {of.features}" for of in (here, custom))
    what, advice = f"the data set {name} is not the one of this run", f"--data {name}, which declares runs on what is prepared now"
    raise HarnessError(what, where="data.custom", found=found, expected=expected, nearest=advice)
