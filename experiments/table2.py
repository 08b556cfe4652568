"""Table 2: ECT, fine-tuning a pre-trained diffusion model with IC and with GC (mu = 0.3), a short and a long run; other mu for claim C8.

CIFAR-10 and FFHQ-64 are unconditional with EDM's DDPM++, ImageNet-64 is class-conditional with EDM2-S. The paper scale starts from the
public weights of EDM and EDM2 (`harness doctor` names the files). The other scales start from denoisers that this experiment trains: with
DDPM++, Figure 2's denoiser of IC; with a small conditional EDM2, at the scales with images, one of its own. Rows with EDM2 have no other mu
than the paper's, and below the paper scale long runs only. One training seed by default at the paper scale, three elsewhere. The digits
scale tries the other mu in short runs only. docs/table2.md compares every setting with ECT's own.
"""

from harness.config import ablations
from harness.config.parts import GeneratorAugmented, Independent

MU = (0.1, 0.3, 0.5, 0.7)
REPORT = {"notes": ["ImageNet-64, and rows that name EDM2: class-conditional EDM2 network; all others: unconditional"]}


def runs(scale, seeds):
    all_runs = []
    for data in ablations.ect_data(scale):
        for seed in seeds:
            for length in ("short", "long"):
                mus = (0.3,) if scale == "digits" and length == "long" else MU
                for coupling in (Independent(), *(GeneratorAugmented(mu=mu) for mu in mus)):
                    all_runs += ablations.ect(scale, data, length, coupling, seed)
    if scale in ablations.CONDITIONAL:
        for seed in seeds:
            for length in ablations.CONDITIONAL[scale].steps:
                for coupling in (Independent(), GeneratorAugmented(mu=0.3)):
                    all_runs += ablations.ect_conditional(scale, length, coupling, seed)
    return all_runs
