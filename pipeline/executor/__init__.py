"""Who does the parts of a stage: processes of this machine, Ray or Slurm. It changes no byte."""
