"""The stages of the pipeline, each a screenful: intake, fold, close, emit; and what runs beside them."""
