"""A start of a run, up to its first step.

Settings -> micro_batch: rows per pass -> prepare: data sets, model, optimizer -> Run -> resume: the newest checkpoint
    -> join: attention, torch.compile, DDP

dry_run prints the plan of a run, and tries the largest micro-batch of each phase.
"""
