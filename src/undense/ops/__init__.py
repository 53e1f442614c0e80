"""The maths: one operation a file, plain PyTorch, the reference for any faster kernel."""
