"""The stages of the pipeline: intake, fold, close, emit; and the tasks that run next to them."""
