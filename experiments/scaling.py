"""Scaling: does GC's advantage over IC hold with less data, another width of the network, fewer or more steps? Each is varied alone.

The first pair is Table 1's. Quality is measured against the whole data set whatever part is trained on. On the scale's main data set, one
training seed unless asked for more (--seeds 3); at the digits scale one other value each.
"""

from harness.config import ablations

SEEDS = 1
ROWS = {"toy": (256, 1024), "digits": (360,), "fashion": (3750, 15_000), "paper": (3125, 12_500)}
WIDTH = {"toy": (0.5, 2), "digits": (2,), "fashion": (0.5, 2), "paper": (0.5, 2)}
STEPS = {"toy": (0.5, 2), "digits": (0.5,), "fashion": (0.5, 2), "paper": (0.5, 2)}


def runs(scale, seeds):
    found = []
    for run in ablations.ic_and_gc(scale, seeds):
        width = "width" if run.network.kind == "mlp" else "base_channels"
        found.append(run)
        found += [ablations.varied(run, data={"limit": rows}) for rows in ROWS[scale]]
        found += [ablations.varied(run, network={width: round(factor * getattr(run.network, width))}) for factor in WIDTH[scale]]
        found += [ablations.varied(run, train={"steps": round(factor * run.train.steps)}) for factor in STEPS[scale]]
    return found
