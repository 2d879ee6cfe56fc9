"""The data side of Everystep: formats, sources, blocks, stages, release and audit."""
