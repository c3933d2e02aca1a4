"""A recipe: the phases of a run, one after the other.

flags, or --recipe FILE.toml -> file: Settings of each phase -> sources: data sets, opened once
    -> phases: masks, shape, mixture, batches, order; where each phase begins -> Phase
    -> records: into a checkpoint, and back -> changes: what is not as it was
"""
