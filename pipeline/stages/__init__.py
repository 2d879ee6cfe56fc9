"""One module for each DVC stage, with the stage's name: `python -m pipeline.stages.NAME [of]`."""
