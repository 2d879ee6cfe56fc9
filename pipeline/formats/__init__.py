"""The bytes on disk. `docs/formats.md` is the contract; this package is its reference implementation.

Imports only libraries, so that a reader in another project can lift it out whole.
"""
