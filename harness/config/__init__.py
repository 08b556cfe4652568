"""What is run: a Run and its parts, presets, ablations, overrides, and the files of experiments/. No torch."""
