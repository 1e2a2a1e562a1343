"""The stages of the pipeline, each a screenful: intake, fold, close, emit; and the tasks that run next to them."""
