"""Recipes of small runs, and the data sets that they read, for tests."""

from pathlib import Path

from datasets_of_rows import write_data_set

# Three phases: two data sets mixed 3:1 with batches that grow, another one, and a decay with other masks.
THREE = """
model = "tiny"
seed = 5
log_every = 1
eval-every = 0
checkpoint_every = 3
weight-decay = 0.1
dropout = 0.1

[[phase]]
data = ["a", "b"]
weights = [3, 1]
steps = 9
global_batch = 8
end-global-batch = 16
micro_batch = 4
lr = 1e-3
schedule = "constant"
warmup_steps = 2

[[phase]]
data = "c"
epochs = 1
global_batch = 12
micro_batch = 6
lr = 5e-4

[[phase]]
data = ["a", "c"]
tokens = 4000
global_batch = 8
micro_batch = 4
lr = 5e-4
schedule = "wsd"
decay = "sqrt"
decay_share = 1.0
warmup_steps = 0
mask_prob = 0.3
dropout = 0
"""


def write_three(folder: Path, text: str = THREE) -> Path:
    """The recipe, beside its data sets: a of 41 rows, b of 23, c of 30."""
    for name, rows, seed in (("a", (30, 11), 1), ("b", (23,), 2), ("c", (20, 10), 3)):
        if not (folder / name).exists():
            write_data_set(folder / name, rows, seed=seed)
    path = folder / "recipe.toml"
    path.write_text(text)
    return path
