"""Site files: what is passed to sbatch, what clashes, and the examples in docs/sites."""

from __future__ import annotations

from pathlib import Path

import pytest
from submitit.slurm.slurm import _make_sbatch_string

from harness.errors import HarnessError
from harness.sweep.site import OWN_OPTIONS, Site, load_site
from harness.sweep.slurm_submit import Array, _refusal, parameters

EXAMPLES = sorted((Path(__file__).parents[1] / "docs" / "sites").glob("*.toml"))


def script(site: Site) -> str:
    """The batch script for a site, as submitit writes it."""
    values = parameters(site, Array((), threads=1, after=()), at_once=4)
    setup = values.pop("setup")
    return _make_sbatch_string("true", folder="folder", map_count=3, setup=setup, **values)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_valid_and_give_a_script(path):
    text = script(load_site(path))
    assert "#SBATCH --time=" in text and "#SBATCH --array=0-2%3" in text


def test_four_kinds_of_sites_have_an_example():
    texts = {path.stem: script(load_site(path)) for path in EXAMPLES}
    assert "--gres=gpu:a100:4" in texts["gpu-by-gres"] and "gpus-per-node" not in texts["gpu-by-gres"]
    assert "--exclude='node[013-015]'" in texts["gpu-by-gres"] and "--reservation=training" in texts["gpu-by-gres"]
    assert "--gpus-per-node=1" in texts["gpu-by-constraint"] and "--constraint=v100-32g" in texts["gpu-by-constraint"]
    assert "#SBATCH --export=NONE" in texts["no-environment"] and "--export=ALL" in texts["no-environment"].partition("srun")[2]
    assert "\nsrun" not in texts["cpu-without-srun"]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", OWN_OPTIONS)
def test_options_that_the_launcher_sets_are_refused_with_what_decides_them(tmp_path, name):
    with pytest.raises(HarnessError) as error:
        load_site(write(tmp_path, f'[sbatch]\n{name} = "x"\n'))
    assert name in str(error.value) and OWN_OPTIONS[name] in str(error.value)


@pytest.mark.parametrize(
    "text, fact",
    [
        ('[sbatch]\ngres = "gpu:4"', "gpus"),
        ("srun = false\nnodes = 2", "srun"),
        ("srun = false\ngpus = 2", "srun"),
        ('[sbatch]\nexclude = "a\\nb"', "exclude"),
        ('[sbatch]\n"--exclude" = "a"', "exclude"),
        ("[sbatch]\nnice = [1]", "nice"),
        ('memory = 8\n[sbatch]\nmem-per-cpu = "4G"', "mem-per-cpu"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, text, fact):
    with pytest.raises(HarnessError) as error:
        load_site(write(tmp_path, text))
    assert fact in str(error.value)


def test_memory_by_cpu_is_passed_where_memory_is_not_set():
    assert "#SBATCH --mem-per-cpu=4G\n" in script(Site(sbatch={"mem-per-cpu": "4G"}))


def test_flags_and_numbers_are_passed_and_false_is_left_out():
    text = script(Site(sbatch={"exclusive": True, "nice": 100, "contiguous": False}))
    assert "#SBATCH --exclusive\n" in text and "#SBATCH --nice=100\n" in text and "contiguous" not in text


@pytest.mark.parametrize(
    "words, certain",
    [
        ("AssocMaxSubmitJobLimit; Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size)", True),
        ("QOSMaxSubmitJobPerUserLimit; Batch job submission failed", True),
        ("AssocGrpSubmitJobsLimit", True),
        ("Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", False),
        ("Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)", None),
        ("AssocMaxNodePerJobLimit; Batch job submission failed", None),
        ("Batch job submission failed: Invalid account or account/partition combination specified", None),
    ],
)
def test_only_limits_on_submitted_jobs_are_waited_for(words, certain):
    refusal = _refusal(words)
    assert getattr(refusal, "certain", None) is certain and refusal.details["found"] == words
