"""Shards -> a pre-trained encoder.

__main__   settings -> run: data, order, model -> resume: newest checkpoint -> loop
loop       data/: rows of a step -> step: backward, update (models/, device/, optimizers/) -> metrics, checkpoint
evaluate   checkpoint -> scores on the held-out split        export   checkpoint -> a folder for transformers
report     metrics.jsonl (history) -> curves and findings    stream   the same order of rows, for other training loops
"""
