"""`harness rehearse`: every step of every run of an experiment for a few training steps, on stand-ins for what a machine does not have; and
`harness reproduce --smoke`: all runs for a few steps, then the complete report.

Layout: `rehearse` and `smoke` conduct, in a folder that `places` makes; `kinds` decides which runs stand for which, how they are shortened
and whether their network fits, and `short_runs` shortens all of them for a smoke test; `stand_ins` builds data and weights with `archives`
(data sets in their official formats) and `weights` (EDM's pickles, the Inception network); `job` is what the launcher starts in a
rehearsal; `outcome` reads from the folders what became of each step; `printing` shows and stores it.

Nothing of a rehearsal is a result: its configs have `rehearsal` set, its runs are named rehearsal-..., its data folder is marked
(harness.store.stand_ins), and reports, publication, plans and measurements refuse all of it.
"""
