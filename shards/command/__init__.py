"""What the commands of `prep` and `train` share.

options   a frozen dataclass of settings -> flags, help, `--config`, checked values
console   argv -> Parser -> guarded(command) -> exit code; messages on stderr
numbers   counts, sizes and times -> text for people
"""
