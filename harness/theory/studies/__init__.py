"""What is measured on finished runs and on exact truth: one module a figure or question, each with

    measure(setting: Setting) -> list[dict]        rows as harness/reporting/measured.py describes them

`harness measure NAME` runs one, prints its rows beside the truth, writes results/measured/<scale>/<name>.csv and draws its figures.
"""

STUDIES = ("figure1", "figure2", "figure3", "theory")
"""Names of modules here; each has an experiment of its name, whose runs must be done before."""
