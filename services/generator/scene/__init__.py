"""One scene: plan, prompt, generate, publish."""
