"""Creates `.venv` from `requirements.lock`, with the standard library only (`make setup`)."""
