"""`harness bench`: how far the harness is from this machine's limit, as ratios of calls that alternate in one process.

Layout: `parts` is the table of what is measured, one module for each part. `turns` times calls by turns, `rows` holds the results, `plain`
is the baseline, `profiles` and `shapes` are the tables of settings and of training steps, `run` measures and prints, `files` and `compare`
keep a benchmark and compare it with another one.
"""
