"""The stages, each a module or a folder of its name: `python -m pipeline.stages NAME [OF]` runs one."""
