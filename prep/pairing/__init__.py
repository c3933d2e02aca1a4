"""Token ids of a partition -> rows in shards. The second task of a build.

    pair ── selection     the token store -> the documents of the task
      ├──── recipes       which loop: nsp | paragraph | sop | full_sentences | document   (docs -> sequences; truncation)
      ├──── rows          sequences -> packing -> rows in shuffled order -> shards; frame sets special tokens
      └──── shards/       masks, formats, storage

`task` says what a pair task gets; `sequences` holds the arrays that pass between these modules.
"""
