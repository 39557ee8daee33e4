"""Training tasks: objective x denoise, one file each."""
