"""Start the muxer: `python -m services.muxer`."""

from services.muxer.app import run
from services.muxer.settings import MuxerSettings
from shared.service_process import main

if __name__ == "__main__":
    main("muxer", MuxerSettings.from_environment, run)
