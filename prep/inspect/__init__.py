"""Looking at a finished data set:

verify    every file, count and rule that the format promises -> lines that name what is wrong
show      a few sequences -> passages
report    manifest + sample -> figures -> findings, facts and charts of a shards.report sheet
    sample      counts over row groups that a seed chooses
    figures     rates with intervals, padding, frequent tokens: pure functions
    findings    what looks wrong, and what to do
    passages    token ids as marked text
"""
