"""Start the merger: `python -m services.merger`."""

from services.merger.app import run
from services.merger.settings import MergerSettings
from shared.service_process import main

if __name__ == "__main__":
    main("merger", MergerSettings.from_environment, run)
