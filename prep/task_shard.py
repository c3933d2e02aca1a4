"""Which of a stage's tasks a command does: task t where t mod count == index. Schedulers that run arrays of jobs say it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shards.errors import UserError

Item = TypeVar("Item")


@dataclass(frozen=True)
class TaskShard:
    """One of `count` shards of every stage; together they do all of it, whatever their order."""

    index: int = 0
    count: int = 1

    def of(self, tasks: Sequence[Item]) -> Sequence[Item]:
        """This shard's tasks."""
        return tasks[self.index :: self.count]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def find_task_shard(stage: str, asked: str, environment: Mapping[str, str]) -> TaskShard:
    """What `--task-shard` asks for or, where a single stage is done, the job that this process is of; else all tasks.

    Raises UserError for a text that is no I/N with I below N, for one without a stage, and for half a job's variables.
    """
    if stage == "all":
        if asked:
            raise UserError(f"--task-shard is {asked!r}, but shards are of one stage; add --stage tokenize or --stage pair")
        return TaskShard()
    if asked:
        return _checked(asked, f"--task-shard is {asked!r}")
    if "SLURM_ARRAY_TASK_ID" in environment:
        return _of_slurm(environment)
    if "JOB_COMPLETION_INDEX" in environment:
        if "JOB_COMPLETIONS" not in environment:
            raise UserError(
                "JOB_COMPLETION_INDEX is set, but Kubernetes does not say of how many: set JOB_COMPLETIONS in the job's "
                "env to its completions, or give --task-shard I/N"
            )
        text = f"{environment['JOB_COMPLETION_INDEX']}/{environment['JOB_COMPLETIONS']}"
        return _checked(text, f"JOB_COMPLETION_INDEX/JOB_COMPLETIONS is {text!r}")
    return TaskShard()


def _of_slurm(environment: Mapping[str, str]) -> TaskShard:
    """Arrays may begin anywhere and go in steps: --array=1-9:2."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP")
    values = [environment.get(name, default) for name, default in zip(names, ("", "", "0", "1"), strict=True)]
    said = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
    if not all(re.fullmatch("[0-9]{1,9}", value) for value in values) or values[3] == "0":
        raise UserError(f"{said}: not what Slurm says in an array; give --task-shard I/N")
    number, count, first, step = map(int, values)
    index, rest = divmod(number - first, step)
    if rest or not 0 <= index < count:
        raise UserError(f"{said}: not an array of evenly spaced numbers; give --task-shard I/N")
    return TaskShard(index, count)


def _checked(text: str, said: str) -> TaskShard:
    match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"{said}, must be I/N with I from 0 to N - 1, such as 0/3, 1/3 and 2/3")
    return TaskShard(int(match[1]), int(match[2]))
