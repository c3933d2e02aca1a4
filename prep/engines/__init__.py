"""Tasks on workers. The rest of `prep` uses only `open_engine` and `run_tasks`.

open_engine("local" | "dask:ADDRESS" | "ray:ADDRESS" | "MODULE:FACTORY")   open
  local     LocalExecutor: processes of this machine, from forks
  on_dask   AdaptedExecutor over Dask's futures                            adapter
  on_ray    AdaptedExecutor over Ray's futures
  open      AdaptedExecutor over the user's own executor
-> Engine(executor, window)                                                engine
-> run_tasks(engine, function, tasks) -> (task, result) as each is done
"""
