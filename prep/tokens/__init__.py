"""Documents -> token ids, the first stage of a build.

    a name (file, folder, hub)  --tokenizer_source-->  PreparedTokenizer
    the corpus  --vocabulary-->  PreparedTokenizer     (with `--tokenizer train:N`)

    a unit of the corpus  --tokenize--.
      documents  --sentences-->  sentences  --encoder-->  ids  --store-->  segments of the token store

`special_tokens` finds out what the tokens of a tokenizer are for: roles, templates, and where words start.
"""
