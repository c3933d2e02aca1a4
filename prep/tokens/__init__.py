"""Documents -> token ids, the first stage of a build.

    a name (file, folder, hub)  --tokenizer_source-->  PreparedTokenizer
    the corpus  --vocabulary-->  PreparedTokenizer     (`--tokenizer train:N`; `byte_level` for train-bpe:N)

    a unit of the corpus  --tokenize--.
      --batches-->  documents  --encode--.                              --store-->  segments of the token store
         --sentences-->  sentences  --encoder-->  ids
         --long_texts-->  the whole document, a very long one in parts  --encoder-->  ids    (`--pairing document`)

`special_tokens` finds out what the tokens of a tokenizer are for: roles, templates, and where words start.
"""
