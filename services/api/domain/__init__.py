"""The api's rules: run specification, run view, redrive plan, costs. No I/O."""
