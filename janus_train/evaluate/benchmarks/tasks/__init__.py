"""One module per published benchmark; `registry.TASK_MODULES` lists them."""
