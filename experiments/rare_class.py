"""Rare class: does GC drop a class of 1 % of the data, and does it come back? GC with mu = 0.5 and 1 beside IC and batch-OT.

GC replaces data by endpoints that the model itself predicts: a class that the model generates too rarely is also too rare among the
endpoints, so the loss could feed on itself. One digit (or one of eight Gaussians) keeps so few rows that it is 1 % of the training set; FID
(or W2) compares with this set. More samples are drawn than elsewhere, since the counts are small, and points train four times longer. The
column "rare class" is the share of that class in the samples over its share in the training set, among the images that the classifier is
sure of (for points: those near a mode): 1 for a model that generates it as often as it occurs, 0 for one that has dropped it. The data sets
of the paper scale have no classifier here, so its runs are those of the fashion scale.
"""

from harness.config import presets
from harness.config.parts import BatchOT, GeneratorAugmented, Independent

DATA = {"toy": "eight-gaussians-rare", "digits": "digits-rare", "fashion": "fashion-mnist-rare"}


def runs(scale, seeds):
    scale = scale if scale in DATA else "fashion"
    couplings = [Independent(), BatchOT(), GeneratorAugmented(mu=0.5), GeneratorAugmented(mu=1)]
    return presets.grid(scale, couplings, seeds, [DATA[scale]])
