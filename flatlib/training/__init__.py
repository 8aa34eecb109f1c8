"""Training: methods as records of parts, the one step that executes them, a loop that resumes."""
