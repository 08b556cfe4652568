"""Re-runs, measures and judges 'Improving Consistency Models with Generator-Augmented Flows' (ICML 2025, arXiv 2406.09570)."""
