"""Benchmarks beside what a user would pick instead: each subject runs everybody in turns and prints medians and ratios."""
