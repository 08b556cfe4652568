"""The public functions of the package, which `harness` offers under its own name: `harness.load`, `harness.records` and so on."""
