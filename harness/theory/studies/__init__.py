"""Studies: what is measured on finished runs and on laws with known truth, one module per figure or question, each with

    measure(context: StudyContext) -> list[MeasurementRow]

`harness measure NAME` runs the study of that name, prints its rows next to the known truth, and writes them to
results/measured/<scale>/<name>.csv. The runs of the experiment of the same name must be done before.
"""

STUDIES = {
    "figure1": "harness.theory.studies.figure1",
    "figure2": "harness.theory.studies.figure2",
    "figure3": "harness.theory.studies.figure3",
    "theory": "harness.theory.studies.theorems",
    "why_mu": "harness.theory.studies.why_mu",
}
"""The module of each study, by the name that the command line uses."""
