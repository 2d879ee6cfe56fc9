"""What builders run: `make release`, `make reproduce`, a new project, the installation."""
