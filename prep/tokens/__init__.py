"""Documents -> token ids, the first stage of a build.

    a name (file, folder, hub)  --tokenizer_source-->  PreparedTokenizer
    the corpus  --vocabulary-->  PreparedTokenizer     (`--tokenizer train:N`; `byte_level` for train-bpe:N)

    a unit of the corpus  --tokenize--.
      --batches-->  documents  --encode--.                              --store-->  a file of the token store
         --sentences-->  sentences  --encoder-->  ids
         --long_texts-->  the whole document, a very long one in parts  --encoder-->  ids    (`--pairing document`)

    files of the token store  --sources-->  the documents of any range of places; --merge-->  a file of several units

`layout` is a document's bytes there; `scratch` is the folder around it. `special_tokens` finds out what the tokens of a
tokenizer are for: roles, templates, and where words start.
"""
