"""Table 2: ECT, fine-tuning a pre-trained diffusion model with IC and with GC (mu = 0.3), a short and a long run; other mu for claim C8.

The paper scale starts from EDM's public weights (`harness doctor` names the files), on CIFAR-10 and FFHQ-64; the other scales start from a
denoiser that this experiment trains, Figure 2's denoiser of IC. ImageNet-64 is missing: its ADM network is not in this network family.
One training seed by default. The digits scale tries the other mu in short runs only.
"""

from harness.config import ablations
from harness.config.parts import GeneratorAugmented, Independent

MU = (0.1, 0.3, 0.5, 0.7)
REPORT = {"absent": {"paper": {"imagenet64": "not run: its ADM network is not in this network family"}}}


def runs(scale, seeds):
    all_runs = []
    for data in ablations.ect_data(scale):
        for seed in seeds:
            for length in ("short", "long"):
                mus = (0.3,) if scale == "digits" and length == "long" else MU
                for coupling in (Independent(), *(GeneratorAugmented(mu=mu) for mu in mus)):
                    all_runs += ablations.ect(scale, data, length, coupling, seed)
    return all_runs
