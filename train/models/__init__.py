"""Models for pre-training: transformers' own classes and weights, on packed rows.

families     one row per family (`model_type`): transformers' class, its heads, positions and token types
sizes        a name such as `base` -> a configuration from scratch
config       config.json -> a checked configuration; does it fit the data set?
pretrained   a folder or hub name -> configuration and weights, from safetensors only
encoder      --model -> sizes, config or pretrained -> the model          checkpoint -> the model
packed       PackedEncoder: packed rows -> the model's base -> heads, only where something is predicted -> sums of losses
"""
