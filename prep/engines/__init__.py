"""Tasks on workers. The rest of `prep` knows only `run_tasks` and `open_engine`.

    open_engine("local" | "dask:ADDRESS" | "ray:ADDRESS" | "MODULE:FACTORY")          open
        |
        v                      local    LocalExecutor: spawned processes of this machine
    Engine(executor, window)   on_dask  \
        |                      on_ray    AdaptedExecutor: another system's futures    adapter
        v                      open     /  (the user's own executor)
    run_tasks(engine, function, tasks) -> (task, result) as each is done              engine
"""
