"""Start the api: `python -m services.api`."""

from services.api.app import run
from services.api.settings import ApiSettings
from shared.service_process import main

if __name__ == "__main__":
    main("api", ApiSettings.from_environment, run)
