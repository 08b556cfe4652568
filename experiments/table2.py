"""Table 2: ECT, fine-tuning a pre-trained diffusion model with IC and with GC (mu = 0.3), a short and a long run; other mu for claim C8.

At the paper scale from EDM's public weights (doctor says which), on CIFAR-10 and FFHQ-64; at the others from a denoiser that this
experiment trains, which is Figure 2's of IC. ImageNet-64 is missing: its ADM network is no member of this network family.
One training seed unless asked for more (--seeds 3). At the digits scale the other mu are tried in short runs only.
"""

from harness.config import ablations
from harness.config.run import GeneratorAugmented, Independent

SEEDS = 1
MU = (0.1, 0.3, 0.5, 0.7)
REPORT = {"absent": {"paper": {"imagenet64": "not run: its ADM network is no member of this network family"}}}


def runs(scale, seeds):
    found = []
    for data in ablations.ect_data(scale):
        for seed in seeds:
            for length in ("short", "long"):
                mus = (0.3,) if scale == "digits" and length == "long" else MU
                for coupling in (Independent(), *(GeneratorAugmented(mu=mu) for mu in mus)):
                    found += ablations.ect(scale, data, length, coupling, seed)
    return found
