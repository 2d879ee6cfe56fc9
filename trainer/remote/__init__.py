"""Modules that travel with exported weights. Nothing here imports Everystep, and Everystep imports nothing here."""
