"""The model behind the emulator: composer, clip shapes and input rules."""
