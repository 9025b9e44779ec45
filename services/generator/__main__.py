"""Start the generator: `python -m services.generator`."""

from services.generator.app import run
from services.generator.settings import GeneratorSettings
from shared.service_process import main

if __name__ == "__main__":
    main("generator", GeneratorSettings.from_environment, run)
